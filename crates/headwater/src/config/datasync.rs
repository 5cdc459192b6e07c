//! The section `datasync`: live queries and `/api/…`.

use std::collections::BTreeMap;
use std::time::Duration;

use hw_datasync::names::{Naming, Namings};
use hw_datasync::statement::BigNumbers;

use super::Reader;
use super::secret::Secret;

/// Live queries.
#[derive(Clone, Debug)]
pub struct DataSync {
    /// Whether they are served.
    pub enabled: bool,
    /// Role of users whose token chooses none.
    pub role: Option<String>,
    /// Schema of their tables.
    pub schema: String,
    /// Whether those without a token are let in, and with which role; `None` inside: with the same.
    pub anonymous: Option<Option<String>>,
    /// How columns are named.
    pub naming: Namings,
    /// What numbers of 64 bits and decimals are.
    pub big_numbers: BigNumbers,
    /// Most subscriptions of one socket.
    pub subscriptions: usize,
    /// Most open transactions of one socket.
    pub transactions: usize,
    /// Most open transactions of all sockets.
    pub all_transactions: usize,
    /// How long one may be without a statement.
    pub idle: Duration,
    /// How long one may be open.
    pub open: Duration,
    /// How long a statement may take.
    pub statement_timeout: Duration,
    /// Most bytes of a message.
    pub max_message: u64,
    /// Most bytes of a result.
    pub max_result: u64,
    /// How long a subscription waits for its table, and goes on without it.
    pub table_wait: Duration,
    /// How long subscriptions wait for a client that comes back.
    pub resume: Duration,
    /// Cookie that holds a token.
    pub cookie: Option<String>,
    /// Origins of pages whose cookie counts.
    pub origins: Vec<String>,
    /// Addresses of hooks by the tags of their messages.
    pub hooks: BTreeMap<String, String>,
    /// What requests to them are signed with.
    pub hook_secret: Option<Secret>,
}

impl DataSync {
    pub(super) fn read(values: &mut Reader) -> DataSync {
        let role_of_strangers = values.text("datasync.anonymous_role");
        let are_let_in = values.switch("datasync.anonymous");
        // That the words are known was looked at when it was parsed.
        let tables: BTreeMap<String, String> = values
            .json("datasync.table_naming")
            .and_then(|tables| serde_json::from_value(tables).ok())
            .unwrap_or_default();
        DataSync {
            enabled: values.switch("datasync.enabled"),
            role: values.text("datasync.role"),
            schema: values.required_text("datasync.schema"),
            anonymous: are_let_in.then_some(role_of_strangers),
            naming: Namings {
                usual: naming(&values.required_text("datasync.naming")),
                tables: tables.iter().map(|(table, word)| (table.clone(), naming(word))).collect(),
            },
            big_numbers: match values.required_text("datasync.bigint").as_str() {
                "string" => BigNumbers::Texts,
                _ => BigNumbers::Numbers,
            },
            subscriptions: values.count("datasync.subscriptions"),
            transactions: values.count("datasync.transactions"),
            all_transactions: values.count("datasync.all_transactions"),
            idle: values.duration("datasync.transaction_idle"),
            open: values.duration("datasync.transaction_time"),
            statement_timeout: values.duration("datasync.statement_timeout"),
            max_message: values.number("datasync.max_message"),
            max_result: values.number("datasync.max_result"),
            table_wait: values.duration("datasync.table_wait"),
            resume: values.duration("datasync.resume"),
            cookie: values.text("datasync.cookie"),
            origins: values.list("datasync.origins"),
            // That they are texts was looked at in the file; from elsewhere there are none.
            hooks: values
                .json("datasync.hooks")
                .and_then(|hooks| serde_json::from_value(hooks).ok())
                .unwrap_or_default(),
            hook_secret: values.secret("datasync.hook_secret"),
        }
    }
}

fn naming(word: &str) -> Naming {
    match word {
        "identity" => Naming::Identity,
        _ => Naming::Camel,
    }
}
