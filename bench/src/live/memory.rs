//! 11: 20,000 subscriptions on 2,000 sockets: memory, and how fast they are subscribed to.
//!
//! Each socket is of a user who owns 10 rows, in another run 1,000, and subscribes to them ten times, each time
//! with another condition that all of them meet. The limit of subscribing is the source's: the same questions
//! over as many of its sessions, one after the other in each, with nothing else done.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::live::crowd::Crowd;
use crate::live::world::{self, ROLE};
use crate::options::Options;
use crate::report::{Figure, Report};
use crate::server::Server;
use crate::source::Source;
use crate::{Failure, Outcome};

const SOCKETS: u64 = 2000;
const SUBSCRIPTIONS: u64 = 10;
/// Rows of a user, where results are to be large.
const MANY_ROWS: u64 = 1000;
/// Sessions that ask for the limit.
const SESSIONS: u64 = 8;
/// Memory is looked at when nothing more is done.
const REST: Duration = Duration::from_secs(5);

/// Measures with small results and with large ones.
pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let sockets = options.scaled(SOCKETS);
    for rows in [world::ROWS, options.scaled(MANY_ROWS).max(world::ROWS)] {
        let source = world::start(sockets, report).await?;
        let more = format!(
            "INSERT INTO notes (owner, title) SELECT u::text, 'note ' || n
               FROM generate_series(0, {sockets} - 1) u, generate_series({} + 1, {rows}) n;
             ANALYZE notes",
            world::ROWS
        );
        source.sql.batch_execute(&more).await?;
        let server = Server::start_live(options, &source.url(), ROLE)?;
        server.until_ready().await?;
        let label = |what: &str| format!("results of {rows} rows: {what}");
        // The table is followed before anything is measured.
        drop(subscribed(&server, 1, 1).await?);
        tokio::time::sleep(REST).await;

        let before = server.usage()?.resident_bytes;
        let mut crowd = Crowd::open(&server, sockets).await?;
        tokio::time::sleep(REST).await;
        let open = server.usage()?.resident_bytes;
        let each = open.saturating_sub(before) as f64 / sockets as f64 / 1024.0;
        report.figure(Figure::new(label("memory of an idle socket"), "KiB", each).at_most(20.0));

        let began = Instant::now();
        subscribe(&mut crowd, sockets, SUBSCRIPTIONS).await?;
        let count = (sockets * SUBSCRIPTIONS) as f64;
        let rate = count / began.elapsed().as_secs_f64();
        let limit = questions_per_second(&source, sockets).await?;
        let figure = Figure::new(label("subscribes"), "1/s", rate).limit(limit);
        report.figure(if rows == world::ROWS { figure.at_least(5000.0) } else { figure });
        tokio::time::sleep(REST).await;
        let each = server.usage()?.resident_bytes.saturating_sub(open) as f64 / count;
        report
            .figure(Figure::new(label("memory of a subscription"), "bytes", each).at_most(1024.0));
        server.account(report).await?;
    }
    Ok(())
}

async fn subscribed(server: &Server, sockets: u64, each: u64) -> Outcome<Crowd> {
    let mut crowd = Crowd::open(server, sockets).await?;
    subscribe(&mut crowd, sockets, each).await?;
    Ok(crowd)
}

async fn subscribe(crowd: &mut Crowd, sockets: u64, each: u64) -> Outcome<()> {
    for number in 0..each {
        let mut request = world::subscription("notes");
        let title = json!(format!("no note {number}"));
        let mut condition = world::equals("title", title);
        condition["op"] = json!("OpNotEqual");
        request["query"]["whereCondition"] = condition;
        for who in 0..sockets {
            crowd.ask(who as usize, request.clone())?;
        }
    }
    crowd.answers((sockets * each) as usize).await.map(drop)
}

/// The same questions at the source, in several sessions at once.
async fn questions_per_second(source: &Source, sockets: u64) -> Outcome<f64> {
    let began = Instant::now();
    let each = (sockets / SESSIONS).max(1);
    let ask = |session: tokio_postgres::Client| async move {
        session.batch_execute(&format!("SET ROLE {ROLE}")).await?;
        let user = session.prepare("SELECT set_config('rls.ihp_user_id', $1, false)").await?;
        let rows =
            session.prepare("SELECT to_jsonb(t)::text FROM notes t WHERE title <> $1").await?;
        for who in 0..each {
            session.query(&user, &[&who.to_string()]).await?;
            session.query(&rows, &[&"no note"]).await?;
        }
        Ok::<_, Failure>(())
    };
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(ask(source.session().await));
    }
    futures_util::future::try_join_all(sessions).await?;
    Ok((each * SESSIONS) as f64 / began.elapsed().as_secs_f64())
}
