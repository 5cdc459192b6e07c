//! `generate types` as a process, with a real database in every case, and what `tsc` says of its output.
//!
//! Source: `datasync.md` 20 (DS-20).

mod compile;
mod watch;

use std::path::{Path, PathBuf};

use hw_testkit::Cluster;

use super::setup::{headwater, text};

const SCHEMA: &str = include_str!("invoices.sql");
const AWKWARD: &str = include_str!("awkward.sql");

/// Files beside this one.
fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/generate").join(name)
}

/// The declarations, which there must be.
fn generated(arguments: &[&str], url: Option<&str>) -> String {
    let output = headwater(&[&["generate", "types"], arguments].concat(), url);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    text(&output.stdout)
}

/// What is said where there can be none.
fn refused(arguments: &[&str], url: Option<&str>) -> String {
    let output = headwater(&[&["generate", "types"], arguments].concat(), url);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    assert_eq!(text(&output.stdout), "");
    text(&output.stderr)
}

fn expect(name: &str, found: &str) {
    let path = here(name);
    if std::env::var_os("HEADWATER_WRITE_PAGES").is_some() {
        std::fs::write(&path, found).expect("written");
    }
    let expected = std::fs::read_to_string(&path).expect("there");
    assert_eq!(found, expected, "{name}");
}

/// DS-20: the example of the specification and more, from a file and from a database, in both forms.
#[tokio::test]
async fn ds_20_the_declarations_of_a_file_and_of_a_database_are_the_same() {
    let file = here("invoices.sql").display().to_string();
    expect("invoices.d.ts", &generated(&[&file], None));
    let original = generated(&["--compat-ihp", &file], None);
    expect("invoices.ihp.d.ts", &original);

    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client
        .batch_execute(
            "CREATE ROLE ihp_authenticated;
             CREATE FUNCTION uuid_generate_v4() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()';
             CREATE FUNCTION ihp_user_id() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'",
        )
        .await
        .expect("made");
    client.batch_execute(SCHEMA).await.expect("made");
    expect("invoices.d.ts", &generated(&[], Some(&database.url)));
    // What Postgres does not keep is known from the file alone.
    let live = generated(&["--compat-ihp", "--database-url", &database.url], None);
    assert_eq!(live, original.replace("paidAt?:", "paidAt:"));

    let elsewhere = generated(&["--module", "@acme/it's"], Some(&database.url));
    assert!(elsewhere.contains("import type { UUID } from '@acme/it\\'s';"), "{elsewhere}");
    assert!(elsewhere.contains("declare module '@acme/it\\'s' {"), "{elsewhere}");
}

/// DS-7.2: what the wire carries, for every kind of type; DS-6: names by the settings of the server.
#[tokio::test]
async fn ds_20_awkward_names_and_types_are_declared_as_the_wire_has_them() {
    let file = here("awkward.sql").display().to_string();
    expect("awkward.d.ts", &generated(&[&file], None));
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client.batch_execute(AWKWARD).await.expect("made");
    let declared = generated(&[], Some(&database.url));
    expect("awkward.d.ts", &declared);
    are_what_postgres_writes(&client, &declared).await;

    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("headwater.yaml");
    std::fs::write(&config, "datasync: {bigint: string, naming: identity}\n").expect("written");
    let config = config.display().to_string();
    let found = generated(&["--config", &config], Some(&database.url));
    for line in [
        "big: string;",
        "exact: string | null;",
        "grade: string;",
        "bigs: Array<number>;",
        "type: string | null;",
        "address_1: string | null;",
    ] {
        assert!(found.lines().any(|found| found.trim() == line), "{line} in\n{found}");
    }
}

/// Compares the types of a table's columns with the JSON that Postgres makes of values of them all.
async fn are_what_postgres_writes(client: &tokio_postgres::Client, declared: &str) {
    client.batch_execute(include_str!("awkward_row.sql")).await.expect("inserted");
    let sql =
        "SELECT key, jsonb_typeof(value) FROM species, jsonb_each(row_to_json(species)::jsonb)";
    let rows = client.query(sql, &[]).await.expect("read");
    let record = declared.split("interface Species {").nth(1).expect("declared");
    let record = record.split("\n    }").next().expect("it ends");
    assert!(rows.len() > 30, "{}", rows.len());
    for row in rows {
        let (name, made): (&str, &str) = (row.get(0), row.get(1));
        let field = record.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}: ")));
        let field = field.unwrap_or_else(|| panic!("{name} in {record}"));
        let said = match field.trim_end_matches(';').trim_end_matches(" | null") {
            "number" => "number",
            "string" | "Color" | "LiveErrorType" | "UUID" => "string",
            "JsonValue" | "Nothing" => continue,
            array if array.starts_with("Array<") => "array",
            object if object.starts_with('{') => "object",
            other => panic!("{name}: {other}"),
        };
        assert_eq!(said, made, "{name}");
    }
}

#[tokio::test]
async fn ds_20_without_a_database_or_a_table_it_says_what_to_do() {
    assert_eq!(
        refused(&[], None),
        "error[HW1010]: no database is configured\n  mend:  set DATABASE_URL, or give --database-url, \
         or a file: headwater generate types Schema.sql\n\n"
    );
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    assert_eq!(
        refused(&[], Some(&database.url)),
        "error[HW1018]: there is no table to declare\n  where: schema \"public\"\n  mend:  create one, \
         or name another schema with datasync.schema\n\n"
    );
    let nothing = format!("{}/gone", database.url.rsplit_once('/').expect("a name").0);
    let said = refused(&[], Some(&nothing));
    assert!(said.contains("database \"gone\" does not exist"), "{said}");
}

#[test]
fn ds_20_a_schema_file_that_does_not_load_is_told_with_the_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("Schema.sql");
    let name = file.display().to_string();
    let said = refused(&[&name], None);
    assert!(said.contains("error[HW1019]: cannot read the schema file"), "{said}");
    for (sql, place, what) in [
        // The grammar's own finding, behind letters of several bytes and a command of psql.
        (
            "\\connect x\nCREATE TABLE a (b text DEFAULT 'ü', c txet);\n",
            ":2:39\n",
            "type \"txet\" does not exist",
        ),
        ("CREATE TABLE a (b text);\nCREATE TABEL c (d text);\n", ":2:8\n", "syntax error"),
        // Errors of the server that have no position are those of a statement.
        (
            "CREATE TABLE a (b text);\n\n  CREATE TABLE a (c text);\n",
            ":3:3\n",
            "relation \"a\" already exists",
        ),
        ("CREATE EXTENSION no_such;", ":1:1\n", "install the extension"),
        (
            "CREATE TABLE a (b int PRIMARY KEY);\nINSERT INTO a VALUES (77), (77);",
            ":2:1\n",
            "unique constraint violated",
        ),
    ] {
        std::fs::write(&file, sql).expect("written");
        let said = refused(&[&name], None);
        assert!(said.contains(&format!("where: {name}{place}")), "{place} in {said}");
        assert!(said.contains(what), "{what} in {said}");
        assert!(said.contains("error[HW1019]") && said.contains("mend: "), "{said}");
        assert!(!said.contains("(b)=(77)"), "values are not for terminals: {said}");
    }
}

/// Dumps name roles that are made elsewhere, and set their session up as they like.
#[test]
fn ds_20_a_dump_loads_whatever_roles_and_settings_it_names() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("dump.sql");
    std::fs::write(
        &file,
        "\\restrict x'y\nSET client_min_messages = warning;\nSELECT pg_catalog.set_config('search_path', '', false);\n\
         BEGIN;\nCREATE ROLE \"own role\";\nCREATE TABLE public.tasks (id uuid);\n\
         ALTER TABLE public.tasks OWNER TO \"some one\";\nGRANT SELECT ON public.tasks TO anon, \"own role\";\n\
         SET ROLE anon;\n",
    )
    .expect("written");
    let found = generated(&[&file.display().to_string()], None);
    assert!(found.contains("\"tasks\": Task;"), "{found}");
}

#[tokio::test]
async fn ds_20_two_types_of_one_name_are_refused_by_name_and_can_be_named() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client
        .batch_execute("CREATE TABLE user_data (id int); CREATE TABLE user_datum (id int)")
        .await
        .expect("made");
    let url = Some(database.url.as_str());
    for form in [&[][..], &["--compat-ihp"]] {
        assert_eq!(
            refused(form, url),
            "error[HW1024]: the table \"user_data\" and the table \"user_datum\" would both have the \
             type UserDatum\n  where: schema \"public\"\n  mend:  give one of them another name: \
             --type-name user_datum=NAME\n\n"
        );
        let named = [form, &["--type-name", "user_datum=OneDatum"]].concat();
        let found = generated(&named, url);
        assert!(found.contains("\"user_datum\": NewOneDatum;"), "{found}");
        assert!(found.contains("\"user_data\": UserDatum;"), "{found}");
    }
    for (given, what) in [
        ("user_datum=Transaction", "\"Transaction\" is used otherwise"),
        ("user_datum=one datum", "\"one datum\" is no name for a type"),
        ("user_datum", "\"user_datum\" names no type"),
        ("nobody=Somebody", "the type"),
    ] {
        let said = refused(&["--type-name", given], url);
        assert!(said.contains("error[HW1024]") && said.contains(what), "{said}");
    }
    let batch = "ALTER TABLE user_data RENAME TO tasks; ALTER TABLE user_datum RENAME TO new_tasks";
    client.batch_execute(batch).await.expect("renamed");
    let said = refused(&[], url);
    assert!(
        said.contains(
            "new records of the table \"tasks\" and the table \"new_tasks\" would both have the type NewTask"
        ),
        "{said}"
    );
    let unused = ["--type-name", "new_tasks=Fresh", "--type-name", "nobody=Somebody"];
    let said = refused(&unused, url);
    assert!(said.contains("there is no table or enum \"nobody\""), "{said}");
}
