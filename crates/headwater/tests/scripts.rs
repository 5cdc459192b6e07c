//! `scripts/setup` and `scripts/soak` in a checkout of nothing, with tools that only note how they
//! are called.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The checkout and the tools.
struct Checkout {
    directory: tempfile::TempDir,
}

impl Checkout {
    /// With these scripts of ours, and everything there that `scripts/setup` could want to fetch
    /// from elsewhere than npm: a test must not install anything.
    fn with(scripts: &[&str]) -> Checkout {
        let checkout = Checkout { directory: tempfile::tempdir().expect("a directory") };
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for name in [scripts, &["scripts/env", "Cargo.toml"]].concat() {
            let target = checkout.path(name);
            fs::create_dir_all(target.parent().expect("in the checkout")).expect("made");
            fs::copy(ours.join(name), target).expect("copied");
        }
        for tool in ["cc", "psql", "curl", "cargo-fmt", "cargo-clippy", "chromium"] {
            checkout.tool(tool, "");
        }
        for forbidden in ["apt-get", "sudo", "rustup"] {
            checkout.tool(forbidden, "exit 99");
        }
        checkout.tool("cargo", r#"[ "$1" != --version ] || echo cargo 99.0.0"#);
        checkout.tool("node", "echo v22.1.0");
        checkout
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("in the checkout")).expect("made");
        fs::write(path, text).expect("written");
    }

    fn program(&self, name: &str, body: &str) {
        self.write(name, &format!("#!/bin/sh\n{body}\n"));
        let runnable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.path(name), runnable).expect("runnable");
    }

    /// A tool on the path; questions for its version are not noted.
    fn tool(&self, name: &str, body: &str) {
        let note = format!(
            r#"case "$*" in *--version*) ;; *) echo "{name} $*" >>"$CALLS";; esac
{body}"#
        );
        self.program(&format!("tools/{name}"), &note);
    }

    /// Runs a script; returns what it said, and the calls that it made.
    fn run(&self, script: &str, argument: Option<&str>) -> (Output, Vec<String>) {
        let calls = self.path("calls");
        fs::write(&calls, "").expect("written");
        let output = Command::new(self.path(script))
            .args(argument)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.path("tools").display()))
            .env("HOME", self.path("home"))
            .env("CALLS", &calls)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .output()
            .expect("the script runs");
        let root = self.directory.path().display().to_string();
        let calls = fs::read_to_string(&calls).expect("noted");
        (output, calls.lines().map(|line| line.replace(&root, "ROOT")).collect())
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn setup_installs_the_npm_workspaces_once_and_then_says_nothing() {
    let checkout = Checkout::with(&["scripts/setup", "scripts/postgres/package-lock.json"]);
    for major in 14..=18 {
        checkout.program(&format!(".cache/postgres/{major}/bin/postgres"), "");
    }
    let stamp = Command::new("sha256sum")
        .arg(checkout.path("scripts/postgres/package-lock.json"))
        .output()
        .expect("a sum");
    let stamp = String::from_utf8_lossy(&stamp.stdout).into_owned();
    checkout.write(".cache/postgres/.stamp", stamp.split(' ').next().expect("a sum"));
    checkout.program(".cache/pgbouncer/usr/sbin/pgbouncer", "");
    checkout.write("package-lock.json", "{}");
    checkout.write("packages/client/src/index.ts", "");
    checkout.write("packages/react/src/index.ts", "");
    let compile = "mkdir -p $4/dist; touch $4/dist/index.js";
    checkout.tool("npm", &format!("case \"$*\" in *build) {compile};; esac"));

    let install = "npm ci --silent --ignore-scripts --prefix ROOT";
    // The hooks are compiled against the client.
    let build =
        ["client", "react"].map(|name| format!("npm run --silent --prefix packages/{name} build"));
    let (output, calls) = checkout.run("scripts/setup", Some("test"));
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(calls, [install, &build[0], &build[1]]);
    // What conformance/prepare.js compares with: it does nothing after this.
    let stamp = fs::read_to_string(checkout.path("node_modules/.headwater-setup")).expect("there");
    assert_eq!(stamp, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\n");

    let (output, calls) = checkout.run("scripts/setup", Some("test"));
    assert_eq!((output.status.code(), said(&output), calls), (Some(0), String::new(), vec![]));

    checkout.write("package-lock.json", "{ }");
    assert_eq!(checkout.run("scripts/setup", Some("test")).1, [install]);
}

#[test]
fn soak_runs_the_rust_tests_and_the_official_clients_in_their_long_form() {
    let checkout = Checkout::with(&["scripts/soak"]);
    checkout.program("scripts/setup", "");
    let note = r#"echo "  soak $HEADWATER_SOAK seeds $HEADWATER_SEEDS" >>"$CALLS""#;
    checkout.tool("npm", note);
    let rust = "cargo nextest run --cargo-profile soak --workspace --profile soak";
    let clients = "npm test --silent --prefix conformance";
    let build = "cargo build --quiet --profile soak --package headwater";

    let (output, calls) = checkout.run("scripts/soak", None);
    assert!(output.status.success(), "{}", said(&output));
    // What a seed of the official clients costs is another thing.
    assert_eq!(calls, [rust, build, clients, "  soak 1 seeds 100"]);

    // A failure of one is no reason not to run the other, and is not forgotten.
    checkout.tool("cargo", r#"[ "$1 $2" != "nextest run" ]"#);
    let (output, calls) = checkout.run("scripts/soak", None);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).ends_with("soak: FAILED: rust\n"), "{}", said(&output));
    assert!(calls.iter().any(|call| call == clients), "{calls:?}");
    checkout.tool("cargo", "");
    checkout.tool("npm", "exit 7");
    let (output, _) = checkout.run("scripts/soak", None);
    assert!(said(&output).ends_with("soak: FAILED: conformance\n"), "{}", said(&output));
    assert_eq!(output.status.code(), Some(1));
}
