//! A limit on how long the source may take to answer.

use crate::error::{InputError, Result};
use hw_pg::error::{PgError, PgErrorKind};
use std::time::Duration;

/// Gives up a question that is not answered in time.
pub(crate) async fn within<T>(
    limit: Duration,
    doing: &str,
    question: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, question).await {
        Ok(answer) => answer,
        Err(_) => {
            let what = format!("no answer within {} s", limit.as_secs_f32());
            Err(InputError::Pg(PgError::new(PgErrorKind::Silent(what)).doing(doing)))
        }
    }
}
