//! What `tsc --strict` says of the declarations, and of code that uses them.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{generated, here, text};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

fn have_tsc() -> Option<PathBuf> {
    let tsc = root().join("node_modules/typescript/bin/tsc");
    let node = Command::new("node").arg("--version").output();
    let found = tsc.is_file() && node.is_ok_and(|output| output.status.success());
    if !found {
        hw_testkit::missing("node and the packages of package-lock.json (scripts/setup test)");
    }
    found.then_some(tsc)
}

/// Compiles files in a directory of their own, strictly, with our SDK from its sources.
fn compile(tsc: &Path, files: &[(&str, &str)], more: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, contents) in files {
        std::fs::write(directory.path().join(name), contents).expect("written");
    }
    let names: Vec<String> = files.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let config = format!(
        r#"{{"compilerOptions": {{"strict": true, "noEmit": true, "exactOptionalPropertyTypes": true,
            "target": "es2022", "module": "nodenext", "lib": ["es2023", "dom"], "types": [],
            "paths": {{"@headwater/client/live": ["{}/packages/client/src/live/index.ts"]}}{more}}},
          "files": [{}]}}"#,
        root().display(),
        names.join(", ")
    );
    std::fs::write(directory.path().join("tsconfig.json"), config).expect("written");
    let output = Command::new("node").arg(tsc).arg("-p").arg(directory.path()).output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{}", text(&output.stdout));
}

#[test]
fn ds_20_the_samples_declarations_compile_and_check_names_and_types() {
    let tsc = hw_testkit::needs!(have_tsc());
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample/schema.sql");
    let declarations = generated(&[&schema.display().to_string()], None);
    let uses = "
        import { createRecord, query, updateRecord, type Issue, type NewIssue } from '@headwater/client/live';
        const fresh: NewIssue = { projectId: 'p', number: 1, title: 't', authorId: 'ada' };
        export async function check(): Promise<Issue[]> {
            const made = await createRecord('issues', { ...fresh, fields: { nested: [1, null, 'a'] } });
            const estimate: number | null = made.estimate;
            await updateRecord('issues', made.id, { estimate, assigneeId: null });
            // @ts-expect-error there is no such table
            query('isues');
            // @ts-expect-error there is no such field
            query('issues').where('project_id', 'p');
            // @ts-expect-error a number is no text
            await createRecord('issues', { ...fresh, title: 1 });
            // @ts-expect-error the title is missing
            await createRecord('issues', { projectId: 'p', number: 1, authorId: 'ada' });
            return query('issues').where('status', 'open').orderByDesc('createdAt').fetch();
        }";
    compile(&tsc, &[("headwater.d.ts", &declarations), ("uses.ts", uses)], "");
}

#[test]
fn ds_20_declarations_of_awkward_names_and_types_compile() {
    let tsc = hw_testkit::needs!(have_tsc());
    let declarations = generated(&[&here("awkward.sql").display().to_string()], None);
    let uses = "
        import { createRecord, query, type SpeciesRow, type TransactionRecord } from './names.js';
        export async function check(): Promise<void> {
            const row: SpeciesRow = (await query('species').fetch())[0]!;
            const house: number | null | undefined = row.lives?.['house no'];
            const colour: 'red' | 'it\\'s \\\\ blue' | null = row.colour;
            const note: TransactionRecord['note'] = (await query('transactions').fetch())[0]!.note;
            await createRecord('transactions', { note });
            await createRecord(\"it's a */ table\", { Ünïcode: 'ü', 'quote\"d': null });
            // @ts-expect-error the database makes this value
            await createRecord('species', { big: 1, small: 1, bigs: [], docb: house ?? colour, mail: 'a@b', twice: 2 });
        }";
    let names = "
        export { createRecord, query, type TransactionRecord } from '@headwater/client/live';
        import type { Species } from '@headwater/client/live';
        export type SpeciesRow = Species;";
    let files = [("headwater.d.ts", declarations.as_str()), ("names.ts", names), ("uses.ts", uses)];
    compile(&tsc, &files, "");
}

/// The original's declarations lean on the package that they belong to, and name `User` where it is not
/// known: like theirs they stand where libraries do, which are not checked themselves.
#[test]
fn ds_20_declarations_for_the_original_client_compile_beside_it() {
    let tsc = hw_testkit::needs!(have_tsc());
    let declarations =
        generated(&["--compat-ihp", &here("invoices.sql").display().to_string()], None);
    let client = "
        declare module 'ihp-datasync' {
            export type UUID = string;
            export function query<T extends keyof TableRegistry>(table: T): { fetch(): Promise<TableRegistry[T][]> };
            export function createRecord<T extends keyof NewRecordRegistry>(table: T, record: NewRecordRegistry[T]): void;
        }";
    let uses = "
        import { createRecord, getCurrentUser, query, type Invoice, type Mood } from 'ihp-datasync';
        export async function check(): Promise<Invoice[]> {
            const mood: Mood = 'calm';
            createRecord('invoices', { totalCents: 1, mood, tags: [] });
            // @ts-expect-error there is no such mood
            createRecord('invoices', { totalCents: 1, mood: 'angry', tags: [] });
            const balance: string | undefined = (await getCurrentUser())?.balance;
            return balance === undefined ? [] : query('invoices').fetch();
        }";
    let files =
        [("generated.d.ts", declarations.as_str()), ("client.d.ts", client), ("uses.ts", uses)];
    compile(&tsc, &files, r#", "skipLibCheck": true"#);
}

/// What our SDK exports is what `TAKEN` says: a table must not have the type of something else.
#[test]
fn every_type_that_the_sdk_exports_is_known_as_taken() {
    let tsc = hw_testkit::needs!(have_tsc());
    let module = root().join("packages/client/src/live/index.ts");
    let script = "
        const ts = require(process.argv[1]);
        const program = ts.createProgram([process.argv[2]], { module: 199, target: 9, noLib: true, types: [] });
        const checker = program.getTypeChecker();
        const found = checker.getSymbolAtLocation(program.getSourceFile(process.argv[2]));
        for (const one of checker.getExportsOfModule(found)) console.log(one.getName());";
    let typescript = tsc.with_file_name("../lib/typescript.js");
    let output = Command::new("node").args(["-e", script]).arg(typescript).arg(&module).output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let found = text(&output.stdout);
    assert!(found.lines().any(|name| name == "TableRegistry"), "{found}");
    for name in found.lines().filter(|name| name.starts_with(char::is_uppercase)) {
        assert!(headwater::generate::names::TAKEN.contains(&name), "{name}");
    }
}
