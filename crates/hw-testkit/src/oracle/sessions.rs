//! Connections that write, each with a transaction open or none, driven by one hand: it commits one after
//! another, however many are open.

use tokio_postgres::Client;

use super::plan::CONNECTIONS;
use super::run::explain;
use crate::cluster::Cluster;

/// See the module.
pub(super) struct Sessions {
    connections: Vec<Client>,
    /// Which of them are in a transaction, and which of these keep everybody from a table.
    open: [bool; CONNECTIONS],
    exclusive: [bool; CONNECTIONS],
}

/// What became of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Executed {
    /// It was done.
    Done,
    /// The transaction was committed.
    Committed,
    /// Postgres refused it, and the transaction is over.
    Failed,
    /// It is the rest of a transaction that has failed, or of one whose begin is not in the plan.
    PassedOver,
}

impl Sessions {
    pub async fn connect(cluster: &Cluster, database: &str) -> Sessions {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let connection = cluster.client(database).await;
            // They are driven by one hand: a lock that is not free at once will not be.
            let _ = connection.batch_execute("SET lock_timeout = '10ms'").await;
            connections.push(connection);
        }
        Sessions { connections, open: [false; CONNECTIONS], exclusive: [false; CONNECTIONS] }
    }

    /// Whether a statement comes in its place.
    pub fn expects(&self, on: usize, text: &str) -> bool {
        (text == "BEGIN") != self.open[on]
    }

    /// Executes the next statement of a transaction.
    ///
    /// - Errors: the connection is lost.
    pub async fn execute(&mut self, on: usize, text: &str) -> Result<Executed, String> {
        if !self.expects(on, text) {
            return Ok(Executed::PassedOver);
        }
        if text == "COMMIT" {
            self.give_way(Some(on)).await;
        }
        match self.connections[on].batch_execute(text).await {
            Ok(()) => {}
            // A lock that another one has, a row that is there already, a table that is away.
            Err(error) if error.as_db_error().is_some() => {
                let _ = self.connections[on].batch_execute("ROLLBACK").await;
                self.open[on] = false;
                return Ok(Executed::Failed);
            }
            Err(error) => return Err(explain(&error, text)),
        }
        match text {
            "BEGIN" => (self.open[on], self.exclusive[on]) = (true, false),
            "ROLLBACK" => self.open[on] = false,
            "COMMIT" => {
                self.open[on] = false;
                return Ok(Executed::Committed);
            }
            text if text.contains("TRUNCATE") => self.exclusive[on] = true,
            _ => {}
        }
        Ok(Executed::Done)
    }

    /// Ends the transactions of the others that would keep the observer from looking: nobody but us
    /// could end them meanwhile.
    pub async fn give_way(&mut self, but: Option<usize>) {
        for on in 0..CONNECTIONS {
            if Some(on) != but && self.exclusive[on] {
                self.roll_back_one(on).await;
            }
        }
    }

    /// Ends all open transactions.
    pub async fn roll_back(&mut self) {
        for on in 0..CONNECTIONS {
            self.roll_back_one(on).await;
        }
    }

    async fn roll_back_one(&mut self, on: usize) {
        if self.open[on] {
            let _ = self.connections[on].batch_execute("ROLLBACK").await;
            self.open[on] = false;
        }
    }
}
