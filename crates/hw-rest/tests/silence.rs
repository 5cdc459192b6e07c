//! FD-48: no answer and no record quotes a value or a text of the database, whatever a function of
//! it raises and under whatever SQLSTATE; and an error of a value names its column.

use hw_write::ConflictPolicy;
use serde_json::{Value, json};

use crate::rig::Rig;

const CANARY: &str = "CANARY";

/// `how` says what the trigger does with the value.
const SCHEMA: &str = "
CREATE TABLE birds (id text PRIMARY KEY, how text, v text, q tsquery, r regclass, k int4,
                    short varchar(3), money numeric(3, 1), bits bit(2), u uuid);
CREATE FUNCTION sing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NEW.how LIKE 'raise %' THEN
    RAISE EXCEPTION 'CANARY %', NEW.v USING ERRCODE = substr(NEW.how, 7), DETAIL = NEW.v,
      HINT = NEW.v, COLUMN = NEW.v, CONSTRAINT = NEW.v, TABLE = NEW.v, SCHEMA = NEW.v;
  ELSIF NEW.how = 'syntax' THEN
    EXECUTE 'SELECT ' || NEW.v || ' FROM WHERE';
  ELSIF NEW.how = 'table' THEN
    EXECUTE 'SELECT FROM ' || NEW.v;
  ELSIF NEW.how = 'column' THEN
    EXECUTE 'SELECT ' || NEW.v || ' FROM birds';
  ELSIF NEW.how = 'cast' THEN
    PERFORM NEW.v::int4;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER sing BEFORE INSERT ON birds FOR EACH ROW EXECUTE FUNCTION sing();
GRANT ALL ON birds TO headwater_authenticated";

async fn rig() -> Rig {
    let rig = Rig::start().await;
    rig.sql.batch_execute(SCHEMA).await.unwrap();
    rig.also("birds", ConflictPolicy::LastWriteWins);
    rig
}

async fn put(rig: &Rig, op_id: i64, data: Value) -> Value {
    let put = json!([{"op_id": op_id, "op": "PUT", "type": "birds", "id": "1", "data": data}]);
    rig.write("ada", put).await
}

#[tokio::test]
async fn fd_48_whatever_a_function_of_the_database_raises_is_told_in_words_of_our_own() {
    let rig = rig().await;
    let mut op_id = 0;
    let raised = ["42501", "40001", "42P01", "P0001", "22023", "57014", "08006", "XX000", "23505"];
    let how = raised.iter().map(|state| json!({"how": format!("raise {state}"), "v": CANARY}));
    let dynamic = ["syntax", "table", "column", "cast"].map(|how| json!({"how": how, "v": CANARY}));
    let values = [json!({"q": "CANARY & & ("}), json!({"r": CANARY}), json!({"k": CANARY})];
    for data in how.chain(dynamic).chain(values) {
        op_id += 1;
        let answer = put(&rig, op_id, data.clone()).await;
        let text = answer.to_string().to_uppercase();
        assert!(!text.contains(CANARY), "{data}: {answer}");
        // Only what says of itself that it passes comes again.
        let passes = data["how"] == "raise 40001";
        let expected = if passes { "retry" } else { "rejected" };
        assert_eq!(answer["verdict"], expected, "{data}: {answer}");
    }
    let told = "SELECT count(*) FROM headwater.rejected_writes r \
                WHERE upper(concat(sqlstate, message, table_name, column_name, constraint_name)) \
                      LIKE '%CANARY%'";
    assert_eq!(rig.ask(told).await, "0");
    assert_eq!(
        rig.ask("SELECT count(*) FROM headwater.rejected_writes").await,
        (op_id - 1).to_string()
    );
}

#[tokio::test]
async fn fd_48_an_error_of_a_value_names_its_column() {
    let rig = rig().await;
    for (op_id, (column, value, sqlstate)) in [
        ("k", json!("five"), "22P02"),
        ("k", json!(5_000_000_000u64), "22003"),
        ("u", json!("none"), "22P02"),
        ("q", json!("& &"), "42601"),
        ("short", json!("long"), "22001"),
        ("money", json!(1000), "22003"),
        ("bits", json!("1"), "22026"),
        ("v", json!("a\u{0}b"), "22021"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = put(&rig, op_id as i64 + 1, json!({"how": "none", column: value})).await;
        let error = &answer["error"];
        assert_eq!(
            (&error["column"], &error["sqlstate"]),
            (&json!(column), &json!(sqlstate)),
            "{answer}"
        );
        assert!(
            error["message"].as_str().unwrap().ends_with(&format!("(column \"{column}\")")),
            "{answer}"
        );
    }
    let kept = "SELECT string_agg(column_name, ' ' ORDER BY op_id) FROM headwater.rejected_writes";
    assert_eq!(rig.ask(kept).await, "k k u q short money bits v");
}
