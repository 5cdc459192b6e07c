//! 10: one change among 1, 1,000, 10,000 and 100,000 subscribers, each a user of their own.
//!
//! One of them may see it, as the row says or as another table says; or all may, whoever they are, or as these say; or a
//! membership shows a user 1,000 rows. The clock runs from the moment Postgres has confirmed the commit to the moment the last byte of
//! the message has been read. Checked: whoever may see a change is told of it, and nobody else of anything. The
//! limit is what one question for each subscriber costs at the source.

use std::time::{Duration, Instant};

use crate::live::crowd::Crowd;
use crate::live::world::{self, ROLE};
use crate::options::{Options, open_files};
use crate::report::{Figure, Report};
use crate::server::Server;
use crate::source::Source;
use crate::statistics::{Times, median};
use crate::{Failure, Outcome};

/// Changes that one subscriber may see: the processor's clock has ticks of 10 ms.
const CHANGES: u64 = 1000;
/// Changes that all may see; the middle one counts.
const NOTICES: usize = 11;
/// Rows that a membership shows, and how often it comes.
const ROWS_OF_TEAM: usize = 1000;
const JOINS: usize = 7;
/// Files that a server needs beside its sockets.
const OTHER_FILES: u64 = 1500;
/// Questions that are asked of the source for the limit.
const QUESTIONS: u64 = 500;
/// How long it is listened for messages that nobody should be told.
const SILENCE: Duration = Duration::from_millis(300);
/// How long it is looked what the sockets cost while nothing changes.
const REST: Duration = Duration::from_secs(5);

/// Measures with four numbers of subscribers.
pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let most = open_files()?.saturating_sub(OTHER_FILES);
    let mut alone = None;
    for full in [1, 1_000, 10_000, 100_000] {
        let users = options.scaled(full);
        if users > most {
            report.note(format!("{users} subscribers need more open files than {most}: left out"));
            continue;
        }
        let source = world::start(users.max(2), report).await?;
        let server = Server::start_live(options, &source.url(), ROLE)?;
        server.until_ready().await?;
        let mut crowd = Crowd::open(&server, users).await?;
        let label = |what: &str| format!("{users} subscribers: {what}");

        let resting = at_rest(&server).await?;
        let figure = Figure::new(label("sockets at rest, server CPU"), "ms/s", resting * 1e3);
        report.figure(figure);
        let mut cpu = Vec::new();
        for (table, change, what) in [
            (
                "notes",
                "UPDATE notes SET title = title || '.' WHERE id = $1::text::uuid",
                "own rows",
            ),
            (
                "papers",
                "UPDATE papers SET title = title || '.' WHERE id = $1::text::uuid",
                "rows of a team",
            ),
        ] {
            let seen =
                one_may_see(&server, resting, &source, &mut crowd, users, (table, change)).await?;
            let figure = Figure::new(label(&format!("{what}, told")), "ms p50", seen.times.at(0.5));
            report.figure(figure);
            let figure =
                Figure::new(label(&format!("{what}, told")), "ms p99", seen.times.at(0.99));
            report.figure(figure);
            let asked = asking(&source, users, table).await?;
            let figure = Figure::new(label(&format!("{what}, server CPU")), "us/change", seen.cpu);
            report.figure(figure.limit(asked));
            cpu.push(seen.cpu);
        }
        match &alone {
            None => alone = Some(cpu),
            Some(alone) => {
                for (what, (many, one)) in
                    ["own rows", "rows of a team"].iter().zip(cpu.iter().zip(alone))
                {
                    let name = label(&format!("{what}, CPU against one subscriber"));
                    report.figure(Figure::new(name, "times", many / one).at_most(1.2));
                }
            }
        }

        for (table, what) in [
            ("notices", "what all may see"),
            ("posts", "what all may see by the row"),
            ("circulars", "what a team of all may see"),
        ] {
            let all = all_may_see(&server, &source, &mut crowd, users, table).await?;
            let figure = Figure::new(label(&format!("{what}, told to the last")), "ms", all.last);
            report.figure(if full == 10_000 { figure.at_most(150.0) } else { figure });
            let figure = Figure::new(label(&format!("{what}, server CPU")), "us/delivery", all.cpu);
            report.figure(figure);
        }
        let joined = joins(&source, &mut crowd).await?;
        let figure = Figure::new(label("a membership that shows 1,000 rows, told"), "ms", joined);
        report.figure(figure.at_most(50.0));
        server.account(report).await?;
    }
    report.note(
        "the CPU of a change is what it takes beside what the sockets take at rest (pings and answers to them)",
    );
    report.note(
        "the limit of a change's CPU is what asking the source once for each subscriber takes, one after the other",
    );
    Ok(())
}

/// Changes of which each concerns one subscriber.
struct Seen {
    times: Times,
    /// Microseconds of a change.
    cpu: f64,
}

/// Seconds of CPU in a second in which nothing changes: what shows each side that the other is there.
async fn at_rest(server: &Server) -> Outcome<f64> {
    let (before, began) = (server.usage()?.cpu_seconds, Instant::now());
    tokio::time::sleep(REST).await;
    Ok((server.usage()?.cpu_seconds - before) / began.elapsed().as_secs_f64())
}

async fn one_may_see(
    server: &Server,
    resting: f64,
    source: &Source,
    crowd: &mut Crowd,
    users: u64,
    (table, change): (&str, &str),
) -> Outcome<Seen> {
    let owner = if table == "notes" { "owner::int8" } else { "team::int8" };
    let whose =
        format!("SELECT id::text, {owner} FROM {table} WHERE {owner} < $1 ORDER BY id LIMIT $2");
    let limits: [i64; 2] = [i64::try_from(users)?, i64::try_from(CHANGES)?];
    let rows = source.sql.query(&whose, &[&limits[0], &limits[1]]).await?;
    let change = source.sql.prepare(change).await?;
    crowd
        .while_subscribed(&world::subscription(table), async |crowd| {
            tokio::time::sleep(SILENCE).await;
            let (before, began) = (server.usage()?.cpu_seconds, Instant::now());
            let mut times = Vec::new();
            for row in rows.iter().cycle().take(CHANGES as usize) {
                let (id, owner): (String, i64) = (row.get(0), row.get(1));
                source.sql.execute(&change, &[&id]).await?;
                let confirmed = Instant::now();
                let heard = crowd.told().await?;
                if heard.who as i64 != owner {
                    return Err(format!("user {} was told of a row of {owner}", heard.who).into());
                }
                times.push(heard.at.saturating_duration_since(confirmed));
            }
            let at_rest = resting * began.elapsed().as_secs_f64();
            let cpu = server.usage()?.cpu_seconds - before - at_rest;
            let cpu = cpu.max(0.0) * 1e6 / CHANGES as f64;
            tokio::time::sleep(SILENCE).await;
            match crowd.unexpected() {
                0 => Ok(Seen { times: Times::of(times), cpu }),
                more => Err::<_, Failure>(format!("{more} messages too many").into()),
            }
        })
        .await
}

/// Microseconds that asking takes for each of so many subscribers, at the source.
async fn asking(source: &Source, users: u64, table: &str) -> Outcome<f64> {
    let session = source.session().await;
    session.batch_execute(&format!("SET ROLE {ROLE}")).await?;
    let user = session.prepare("SELECT set_config('rls.ihp_user_id', $1, false)").await?;
    let rows = session.prepare(&format!("SELECT to_jsonb(t) FROM {table} t")).await?;
    let count = users.min(QUESTIONS);
    let began = Instant::now();
    for who in 0..count {
        session.query(&user, &[&who.to_string()]).await?;
        session.query(&rows, &[]).await?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / count as f64 * users as f64)
}

/// Changes that all may see.
struct SeenByAll {
    /// Milliseconds until the last one is told.
    last: f64,
    /// Microseconds for each of them.
    cpu: f64,
}

async fn all_may_see(
    server: &Server,
    source: &Source,
    crowd: &mut Crowd,
    users: u64,
    table: &str,
) -> Outcome<SeenByAll> {
    let change = format!(
        "UPDATE {table} SET title = title || '.' WHERE id = (SELECT min(id::text)::uuid FROM {table})"
    );
    crowd
        .while_subscribed(&world::subscription(table), async |crowd| {
            let (before, mut times) = (server.usage()?.cpu_seconds, Vec::new());
            for _ in 0..NOTICES {
                tokio::time::sleep(SILENCE).await;
                source.sql.execute(&change, &[]).await?;
                let confirmed = Instant::now();
                let mut last = confirmed;
                for _ in 0..users {
                    last = last.max(crowd.told().await?.at);
                }
                times.push((last - confirmed).as_secs_f64() * 1e3);
            }
            let cpu = (server.usage()?.cpu_seconds - before) * 1e6;
            let deliveries = NOTICES as f64 * users as f64;
            Ok::<_, Failure>(SeenByAll { last: median(times), cpu: cpu / deliveries })
        })
        .await
}

/// Milliseconds until a user who joins a team has all of its rows.
async fn joins(source: &Source, crowd: &mut Crowd) -> Outcome<f64> {
    let team = format!(
        "INSERT INTO papers (team, title) SELECT -1, 'of the team ' || n \
         FROM generate_series(1, {ROWS_OF_TEAM}) n"
    );
    source.sql.execute(&team, &[]).await?;
    crowd.ask(0, world::subscription("papers"))?;
    crowd.answers(1).await?;
    let mut times = Vec::new();
    for _ in 0..JOINS {
        for (change, counts) in [
            ("INSERT INTO members VALUES (-1, '0')", true),
            ("DELETE FROM members WHERE team = -1", false),
        ] {
            tokio::time::sleep(SILENCE).await;
            source.sql.execute(change, &[]).await?;
            let (confirmed, mut last) = (Instant::now(), Instant::now());
            for _ in 0..ROWS_OF_TEAM {
                last = last.max(crowd.told().await?.at);
            }
            if counts {
                times.push((last - confirmed).as_secs_f64() * 1e3);
            }
        }
    }
    Ok(median(times))
}
