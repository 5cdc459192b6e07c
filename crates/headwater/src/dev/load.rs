//! The sample in the private Postgres: loaded once, kept.
//!
//! In: a running private Postgres. Out: its database with schema, policies, data and what writes
//! need. Invariant: all of it is there or none of it, so that an interrupted start begins anew.

use hw_pg::config::ConnectConfig;
use hw_pg::error::PgError;
use hw_pg::sql;
use hw_types::Diagnostic;

use super::postgres::{DATABASE, PrivatePostgres};
use crate::commands::setup;
use crate::config::Config;
use crate::report;
use crate::sample;

/// Makes the sample's database if it is missing, with data of this scale.
///
/// - Returns: whether it was made now.
pub async fn ensure(
    config: &Config,
    postgres: &PrivatePostgres,
    scale: u32,
) -> Result<bool, Box<Diagnostic>> {
    let maintenance = connect(postgres, "postgres").await?;
    let known = maintenance
        .query_opt("SELECT FROM pg_catalog.pg_database WHERE datname = $1", &[&DATABASE])
        .await
        .map_err(found)?;
    if known.is_none() {
        maintenance.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await.map_err(found)?;
    }
    let client = connect(postgres, DATABASE).await?;
    let loaded: bool = client
        .query_one("SELECT pg_catalog.to_regclass('public.organisations') IS NOT NULL", &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(found)?;
    if !loaded {
        report::say(&format!("loading the sample data, scale {scale}"));
        load(&client, scale).await.map_err(found)?;
    }
    let statements = setup::statements(config, None, &client).await?;
    setup::apply(&client, &statements).await?;
    Ok(!loaded)
}

async fn load(client: &tokio_postgres::Client, scale: u32) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("BEGIN").await?;
    client.batch_execute(sample::SCHEMA).await?;
    client.batch_execute(sample::POLICIES).await?;
    for statement in sample::statements(scale) {
        client.batch_execute(&statement.sql).await?;
    }
    client.batch_execute("COMMIT").await?;
    client.batch_execute("ANALYZE").await
}

async fn connect(
    postgres: &PrivatePostgres,
    database: &str,
) -> Result<tokio_postgres::Client, Box<Diagnostic>> {
    let url = postgres.url(database);
    let (config, _) = ConnectConfig::parse(url.expose()).map_err(Box::new)?;
    let connected = sql::connect(&config.with_application_name("headwater dev")).await;
    connected.map(|(client, _driver)| client).map_err(|error| Box::new(error.diagnostic()))
}

fn found(error: tokio_postgres::Error) -> Box<Diagnostic> {
    Box::new(PgError::from(error).diagnostic().at("the private Postgres"))
}
