//! In which order a socket is told what happens, as raw messages: `datasync.md` 10.5, rule 4.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::live_queries::{Rig, Socket, query};

/// Commits of a test.
const COMMITS: i64 = 150;

/// What the commit with a number does: one inserts a task, one a note, one both.
fn commit(number: i64) -> String {
    let task = format!("INSERT INTO tasks (id, owner) VALUES ({number}, 'amy')");
    let note = format!("INSERT INTO notes VALUES ({number}, 1, '{number:05}')");
    match number % 3 {
        0 => format!("{task}; {note}"),
        1 => task,
        _ => note,
    }
}

async fn commits(rig: &Rig) {
    for number in 1..=COMMITS {
        rig.run(&commit(number)).await;
    }
}

/// Whose rows a subscription has.
#[derive(Clone, Copy, Debug)]
enum Of {
    Tasks,
    Notes,
    /// The last of the notes by their text, so many of them: Postgres has to be asked.
    Last(usize),
    Count,
}

impl Of {
    fn message(self) -> Value {
        let last = |count: usize| json!({"limit": count, "orderByClause": [{"orderByColumn": "body", "orderByDirection": "Desc"}]});
        match self {
            Of::Tasks => {
                json!({"tag": "CreateDataSubscription", "query": query("tasks", json!({}))})
            }
            Of::Notes => {
                json!({"tag": "CreateDataSubscription", "query": query("notes", json!({}))})
            }
            Of::Last(count) => {
                json!({"tag": "CreateDataSubscription", "query": query("notes", last(count))})
            }
            Of::Count => {
                json!({"tag": "CreateCountSubscription", "query": query("tasks", json!({}))})
            }
        }
    }

    /// The ids that it has behind a commit.
    fn behind(self, commits: i64) -> Vec<i64> {
        let notes = || (1..=commits).filter(|number| number % 3 != 1);
        match self {
            Of::Tasks => (1..=commits).filter(|number| number % 3 != 2).collect(),
            Of::Notes => notes().collect(),
            Of::Last(count) => {
                let mut last: Vec<i64> = notes().rev().take(count).collect();
                last.reverse();
                last
            }
            Of::Count => Vec::new(),
        }
    }
}

fn position(message: &Value) -> Option<(u64, u64)> {
    let (high, low) = message["lsn"].as_str()?.split_once('/')?;
    let number = |text: &str| u64::from_str_radix(text, 16).expect("a position");
    Some((number(high), number(low)))
}

/// A socket as its client sees it.
#[derive(Default)]
struct Seen {
    /// What each subscription has.
    held: BTreeMap<String, (Of, Vec<i64>)>,
    /// Events of one commit until the last of them has come.
    piece: Vec<Value>,
    position: (u64, u64),
    /// The commit of which all of it was last.
    commit: i64,
    /// All that was told.
    log: Vec<String>,
    /// Every id in the order in which it came, with its table's subscription.
    came: Vec<i64>,
    counted: u64,
}

impl Seen {
    /// Between two commits all of it is of one of them, and of none before the last time.
    fn is_of_one_commit(&mut self) {
        let is_of = |commits: &i64| {
            self.held.values().all(|(of, held)| match of {
                Of::Count => true,
                of => of.behind(*commits) == *held,
            })
        };
        let found = (self.commit..=COMMITS).find(is_of);
        self.commit = found.unwrap_or_else(|| {
            let log = self.log.split_off(self.log.len().saturating_sub(30)).join("\n");
            panic!("of no commit at or behind {}: {:?}\n{log}", self.commit, self.held)
        });
    }

    /// The answer to a subscription.
    fn begins(&mut self, of: Of, answer: &Value) {
        assert!(self.piece.is_empty(), "within a commit: {:?}", self.piece);
        self.log.push(answer.to_string());
        let id = answer["subscriptionId"].as_str().unwrap_or_else(|| panic!("{answer}"));
        let rows = answer["result"].as_array().into_iter().flatten();
        let mut ids: Vec<i64> = rows.map(|row| row["id"].as_i64().expect("a number")).collect();
        ids.sort_unstable();
        self.held.insert(id.to_owned(), (of, ids));
    }

    fn event(&mut self, event: Value) {
        self.log.push(event.to_string());
        if event["tag"] == "DidChangeCount" {
            let tasks = self.held.values().find(|(of, _)| matches!(of, Of::Tasks));
            self.counted = event["count"].as_u64().expect("a number");
            let told = tasks.expect("it is followed").1.len() as u64;
            assert!(self.counted <= told, "{} of {told} are counted", self.counted);
            return;
        }
        self.piece.push(event);
        let Some(at) = self.piece.last().and_then(position) else { return };
        assert!(
            at >= self.position,
            "positions go back: {:?} behind {:?}",
            self.piece,
            self.position
        );
        if at > self.position {
            self.is_of_one_commit();
        }
        self.position = at;
        let of = self.piece[0]["subscriptionId"].clone();
        let (_, held) = self.held.get_mut(of.as_str().expect("an id")).expect("it has begun");
        for event in self.piece.drain(..) {
            assert_eq!(event["subscriptionId"], of, "within what another one is told");
            match event["tag"].as_str() {
                Some("DidInsert") => {
                    let id = event["record"]["id"].as_i64().expect("a number");
                    assert!(!held.contains(&id), "{event}");
                    held.push(id);
                    self.came.push(id);
                }
                Some("DidDelete") => {
                    let id = event["id"].as_i64().expect("a number");
                    // It may have come and gone in commits that are told as one.
                    held.retain(|held| *held != id);
                }
                _ => panic!("{event}"),
            }
        }
        held.sort_unstable();
    }

    async fn subscribe(&mut self, socket: &mut Socket, of: Of) {
        let answer = socket.ask(of.message()).await;
        for event in std::mem::take(&mut socket.pushes) {
            self.event(event);
        }
        self.begins(of, &answer);
    }

    /// Takes what comes until all is as it is behind the last commit.
    async fn come_to_the_end(&mut self, socket: &mut Socket) {
        let is_last = |(of, held): &(Of, Vec<i64>)| match of {
            Of::Count => true,
            of => of.behind(COMMITS) == *held,
        };
        let counts = self.held.values().any(|(of, _)| matches!(of, Of::Count));
        let tasks = Of::Tasks.behind(COMMITS).len() as u64;
        while !self.held.values().all(is_last) || counts && self.counted != tasks {
            self.event(socket.receive().await);
        }
        self.is_of_one_commit();
    }
}

/// Waits until nobody is asked any more, also because of what tables look like that are told of for the first time.
async fn rests(rig: &Rig) {
    rig.run("INSERT INTO tasks (id, owner) VALUES (0, 'bob'); INSERT INTO notes VALUES (0, 2, '')")
        .await;
    rig.rests().await;
}

const TEAM: &str = "INSERT INTO members VALUES (1, 'amy')";

/// What is computed here does not overtake what Postgres is asked.
#[tokio::test]
async fn ds_10_5_4_what_has_to_be_asked_is_told_in_the_order_of_commits_among_all_of_its_socket() {
    let rig = Rig::start().await;
    rig.run(TEAM).await;
    let (mut amy, mut seen) = (rig.connect("amy").await, Seen::default());
    for of in [Of::Last(3), Of::Count, Of::Tasks, Of::Last(5), Of::Notes] {
        seen.subscribe(&mut amy, of).await;
    }
    // Two of rows, and what the notes are asked with counts as none.
    rig.is_planned(5).await;
    rests(&rig).await;
    commits(&rig).await;
    seen.come_to_the_end(&mut amy).await;
    assert!(seen.commit > 0);
}

/// What is computed here is told commit by commit, whichever results they concern and however fast they come.
#[tokio::test]
async fn ds_10_5_4_commits_are_told_one_after_the_other_across_the_results_of_a_socket() {
    let rig = Rig::start().await;
    rig.run(TEAM).await;
    let (mut amy, mut seen) = (rig.connect("amy").await, Seen::default());
    for of in [Of::Notes, Of::Tasks] {
        seen.subscribe(&mut amy, of).await;
    }
    rig.is_planned(2).await;
    rests(&rig).await;
    commits(&rig).await;
    seen.come_to_the_end(&mut amy).await;
    let both = |number: i64| vec![number; if number % 3 == 0 { 2 } else { 1 }];
    assert_eq!(seen.came, (1..=COMMITS).flat_map(both).collect::<Vec<_>>());
}

/// A first result is of no commit that the others of its socket have not been told, and of none that they are behind.
#[tokio::test]
async fn ds_10_5_4_a_first_result_is_of_the_commit_that_its_socket_has_come_to() {
    let rig = Rig::start().await;
    rig.run(TEAM).await;
    let (mut amy, mut seen) = (rig.connect("amy").await, Seen::default());
    for of in [Of::Tasks, Of::Last(2)] {
        seen.subscribe(&mut amy, of).await;
    }
    rig.is_planned(2).await;
    rests(&rig).await;
    let begin = async {
        for number in 3..20 {
            let of = if number % 3 == 0 { Of::Notes } else { Of::Last(number) };
            seen.subscribe(&mut amy, of).await;
        }
        (amy, seen)
    };
    let ((), (mut amy, mut seen)) = tokio::join!(commits(&rig), begin);
    seen.come_to_the_end(&mut amy).await;
}
