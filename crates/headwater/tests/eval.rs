//! `eval` as a process.

use super::setup::{headwater, text};

#[test]
fn eval_answers_one_line_for_each_case() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("cases.jsonl");
    let yaml = "config:\\n  edition: 3\\nstreams:\\n  s:\\n    auto_subscribe: true\\n    query: SELECT * FROM t\\n";
    let case = |id: &str| {
        format!(
            r#"{{"id":"{id}","yaml":"{yaml}","rows":[{{"table":"t","row":{{"id":"1"}}}}],"requests":[]}}"#
        )
    };
    std::fs::write(&file, format!("{}\n\n{}\n", case("one"), case("two"))).expect("written");
    let output = headwater(&["eval", file.to_str().expect("unicode")], None);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let answers: Vec<serde_json::Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("an answer is JSON"))
        .collect();
    let ids: Vec<&str> = answers.iter().filter_map(|answer| answer["id"].as_str()).collect();
    assert_eq!(ids, ["one", "two"]);
    assert_eq!(answers[0]["accepted"], true, "{}", answers[0]);

    std::fs::write(&file, "not json\n").expect("written");
    let output = headwater(&["eval", file.to_str().expect("unicode")], None);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("line 1"));
}

/// The page's example is run as it is written: what it shows is what one sees.
#[test]
fn fd_67_the_example_of_the_page_gives_the_answer_of_the_page() {
    let page = headwater::cli::reference();
    let (_, example) = page.split_once("### A worked example").expect("there is an example");
    let block = |text: &str| -> String {
        let (_, rest) = text.split_once("```").expect("a block");
        let (_, rest) = rest.split_once('\n').expect("its first line");
        rest.split_once("```").expect("its end").0.to_owned()
    };
    let case = block(example);
    let answer = block(&example[example.find(&case).expect("there") + case.len() + 3..]);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("case.jsonl");
    let parse = |text: &str| -> serde_json::Value { serde_json::from_str(text).expect("JSON") };
    std::fs::write(&file, parse(&case).to_string()).expect("written");
    let output = headwater(&["eval", file.to_str().expect("unicode")], None);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(parse(&text(&output.stdout)), parse(&answer));
}

#[test]
fn fd_67_a_key_that_means_nothing_is_named_with_its_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("cases.jsonl");
    let yaml = "config: {edition: 3}\\nstreams:\\n  s:\\n    query: SELECT * FROM t\\n";
    let case = format!(r#"{{"yaml":"{yaml}","requests":[{{"sub":"u1"}}]}}"#);
    std::fs::write(&file, case).expect("written");
    let output = headwater(&["eval", file.to_str().expect("unicode")], None);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "headwater: line 1: a request has no key \"sub\"; claims stand under jwt: {\"jwt\": \
         {\"sub\": …}}\n"
    );
}
