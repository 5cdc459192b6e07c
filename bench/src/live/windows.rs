//! 12: 1,000 windows whose order Postgres alone knows (`ORDER BY title LIMIT 50` in a locale), under 100 writes/s.
//!
//! Each window is over a shelf of its own with 200 books; a write retitles a book of one of them, which half of the time is
//! one that its window shows. Counted is what is asked of Postgres for it and what that costs there.

use std::time::{Duration, Instant};

use hw_testkit::server::{OPERATOR, http_get};
use serde_json::json;

use crate::live::crowd::Crowd;
use crate::live::world::{self, ROLE};
use crate::options::Options;
use crate::report::{Figure, Report};
use crate::server::Server;
use crate::source::Source;
use crate::{Outcome, usage};

const WINDOWS: u64 = 1000;
const BOOKS: u64 = 200;
const LIMIT: u64 = 50;
const WRITES_PER_SECOND: u64 = 100;
const SECONDS: u64 = 20;

/// Measures once.
pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let windows = options.scaled(WINDOWS);
    let source = world::start(windows, report).await?;
    let fill = format!(
        "INSERT INTO books (shelf, title) SELECT s, md5(s || '/' || n)
           FROM generate_series(0, {windows} - 1) s, generate_series(1, {BOOKS}) n;
         ANALYZE books"
    );
    source.sql.batch_execute(&fill).await?;
    let server = Server::start_live(options, &source.url(), ROLE)?;
    server.until_ready().await?;
    let mut crowd = Crowd::open(&server, windows).await?;
    for who in 0..windows {
        let mut request = world::subscription("books");
        request["query"]["whereCondition"] = world::equals("shelf", json!(who));
        request["query"]["orderByClause"] =
            json!([{"orderByColumn": "title", "orderByDirection": "Asc"}]);
        request["query"]["limit"] = json!(LIMIT);
        crowd.ask(who as usize, request)?;
    }
    crowd.answers(windows as usize).await?;

    let asked = questions(&server).await?;
    let (server_cpu, source_cpu) = (server.usage()?.cpu_seconds, cpu_of_source(&source));
    let retitle = "UPDATE books SET title = md5(title) WHERE id = (
                     SELECT id FROM books WHERE shelf = $1 ORDER BY title OFFSET $2 LIMIT 1)";
    let retitle = source.sql.prepare(retitle).await?;
    let began = Instant::now();
    let writes = WRITES_PER_SECOND * SECONDS;
    for number in 0..writes {
        let due = Duration::from_secs(1) * number as u32 / WRITES_PER_SECOND as u32;
        tokio::time::sleep_until((began + due).into()).await;
        let shelf = i32::try_from(number * 7919 % windows)?;
        // Every other one stands in its window.
        let place = if number % 2 == 0 { number % LIMIT } else { LIMIT + number % (BOOKS - LIMIT) };
        source.sql.execute(&retitle, &[&shelf, &i64::try_from(place)?]).await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let asked = (questions(&server).await? - asked) / seconds;
    let (server_cpu, source_cpu) =
        (server.usage()?.cpu_seconds - server_cpu, cpu_of_source(&source) - source_cpu);
    let label = |what: &str| format!("{windows} windows, {WRITES_PER_SECOND} writes/s: {what}");
    report.figure(Figure::new(label("writes"), "1/s", writes as f64 / seconds));
    report.figure(Figure::new(label("questions asked"), "1/s", asked));
    report.figure(Figure::new(label("CPU of Postgres"), "ms/s", source_cpu * 1e3 / seconds));
    report.figure(Figure::new(label("server CPU"), "ms/s", server_cpu * 1e3 / seconds));
    report.note("the CPU of Postgres is that of all its processes, the writes included");
    server.account(report).await
}

/// How many questions the server has asked so far.
async fn questions(server: &Server) -> Outcome<f64> {
    let metrics = http_get(server.address(), "/metrics", &OPERATOR).await?.body;
    let line =
        metrics.lines().find_map(|line| line.strip_prefix("headwater_live_questions_total "));
    Ok(line.ok_or("no metric of questions")?.parse()?)
}

/// Seconds that all processes of the source have used which are running now.
fn cpu_of_source(source: &Source) -> f64 {
    let pids = source.cluster.children().into_iter();
    // One that ends meanwhile counts nothing.
    pids.filter_map(|pid| usage::cpu_seconds(pid as u32).ok()).sum()
}
