//! What the types of tables and enums are called.
//!
//! In: names of tables and enums, and those that a person gave. Out: [`TypeNames`], in which every name is
//! there once. Invariant: two things with one name are refused by name, never merged (two interfaces of one
//! name are one to TypeScript).

use std::collections::{BTreeMap, HashMap};

use hw_types::Diagnostic;

use super::catalog::{Facts, Kind};
use super::{Choices, Form, is_identifier, singular};
use crate::code;

/// Names that the SDK exports or that the declarations use: a type of a table that would have one is called
/// `…Record`, that of an enum `…Type`.
pub const TAKEN: [&str; 47] = [
    "AggregateBuilder",
    "Array",
    "ConditionBuilder",
    "ConditionExpression",
    "ConditionOperator",
    "ConnectionState",
    "ConnectionStatus",
    "CrudOptions",
    "CurrentUser",
    "DataRecord",
    "DataSubscription",
    "DataSubscriptionOptions",
    "DataSyncController",
    "DynamicSQLQuery",
    "GroupBuilder",
    "IHPRecord",
    "JsonValue",
    "LiveAggregate",
    "LiveClient",
    "LiveClientOptions",
    "LiveEnvironment",
    "LiveError",
    "LiveErrorKind",
    "LiveGroup",
    "LiveIdentity",
    "LiveQuery",
    "LiveSocket",
    "LiveState",
    "LiveStatus",
    "LogoutOptions",
    "NewRecord",
    "NewRecordBehaviour",
    "NewRecordRegistry",
    "OrderByClause",
    "OrderByDirection",
    "QueryBuilder",
    "QuerySource",
    "Record",
    "SelectedColumns",
    "ServerMessage",
    "SubscribeOptions",
    "TableName",
    "TableOptions",
    "TableRegistry",
    "TokenSource",
    "Transaction",
    "UUID",
];

/// The names of all types that are declared.
#[derive(Clone, Debug)]
pub struct TypeNames {
    tables: HashMap<u32, String>,
    enums: HashMap<u32, String>,
}

impl TypeNames {
    /// The names of the types of these tables and enums.
    ///
    /// - Errors: no table; two types of one name; a given name that is none, or is for nothing.
    pub fn of(facts: &Facts, choices: &Choices) -> Result<TypeNames, Box<Diagnostic>> {
        if facts.tables.is_empty() {
            return Err(Box::new(
                Diagnostic::error(code::NO_TABLES, "there is no table to declare")
                    .at(format!("schema \"{}\"", facts.schema))
                    .mend("create one, or name another schema with datasync.schema"),
            ));
        }
        let mut unused: Vec<&String> = choices.type_names.keys().collect();
        let mut owners = BTreeMap::new();
        let mut names = TypeNames { tables: HashMap::new(), enums: HashMap::new() };
        for oid in declared_enums(facts, choices.form) {
            let Some(of) = facts.types.get(&oid) else { continue };
            let name = type_name(&of.name, "Type", choices)?;
            unused.retain(|given| **given != of.name);
            claim(&mut owners, name.clone(), format!("the enum \"{}\"", of.name), &of.name, facts)?;
            names.enums.insert(oid, name);
        }
        for table in &facts.tables {
            let name = type_name(&table.name, "Record", choices)?;
            unused.retain(|given| **given != table.name);
            let (rows, new) = (
                format!("the table \"{}\"", table.name),
                format!("new records of the table \"{}\"", table.name),
            );
            claim(&mut owners, name.clone(), rows, &table.name, facts)?;
            claim(&mut owners, new_record(&name), new, &table.name, facts)?;
            names.tables.insert(table.oid, name);
        }
        match unused.first() {
            None => Ok(names),
            Some(given) => Err(Box::new(
                Diagnostic::error(
                    code::TYPE_NAME,
                    format!("there is no table or enum \"{given}\" to name a type of"),
                )
                .at("--type-name")
                .mend("name it as the database does, without its schema"),
            )),
        }
    }

    /// The type of a table's records.
    pub fn table(&self, oid: u32) -> &str {
        self.tables.get(&oid).map_or("DataRecord", String::as_str)
    }

    /// The type of an enum, if it is declared.
    pub fn enumeration(&self, oid: u32) -> Option<&str> {
        self.enums.get(&oid).map(String::as_str)
    }
}

/// The type of records that are not inserted yet.
pub fn new_record(name: &str) -> String {
    format!("New{name}")
}

/// The enums that are declared: those of the schema, in the corrected form also those of other schemas that
/// are used, and by name.
pub fn declared_enums(facts: &Facts, form: Form) -> Vec<u32> {
    let mut enums = facts.enums.clone();
    if form == Form::Original {
        return enums;
    }
    let mut pending: Vec<u32> = facts
        .tables
        .iter()
        .flat_map(|table| &table.columns)
        .map(|column| column.type_oid)
        .collect();
    let mut seen = std::collections::HashSet::new();
    while let Some(oid) = pending.pop() {
        if !seen.insert(oid) {
            continue;
        }
        match facts.types.get(&oid).map(|known| &known.kind) {
            Some(Kind::Enum(_)) if !enums.contains(&oid) => enums.push(oid),
            Some(Kind::Array(element)) => pending.push(*element),
            Some(Kind::Domain { base, .. }) => pending.push(*base),
            Some(Kind::Composite(attributes)) => {
                pending.extend(attributes.iter().map(|(_, oid)| *oid));
            }
            _ => {}
        }
    }
    let key = |oid: &u32| facts.types.get(oid).map(|known| (&known.name, &known.schema));
    enums.sort_by(|left, right| key(left).cmp(&key(right)));
    enums
}

fn claim(
    owners: &mut BTreeMap<String, String>,
    name: String,
    owner: String,
    of: &str,
    facts: &Facts,
) -> Result<(), Box<Diagnostic>> {
    match owners.get(&name) {
        None => {
            owners.insert(name, owner);
            Ok(())
        }
        Some(other) => Err(Box::new(
            Diagnostic::error(
                code::TYPE_NAME,
                format!("{other} and {owner} would both have the type {name}"),
            )
            .at(format!("schema \"{}\"", facts.schema))
            .mend(format!("give one of them another name: --type-name {of}=NAME")),
        )),
    }
}

fn type_name(of: &str, kind: &str, choices: &Choices) -> Result<String, Box<Diagnostic>> {
    if let Some(given) = choices.type_names.get(of) {
        let is_taken = choices.form == Form::Corrected
            && (TAKEN.contains(&given.as_str()) || TAKEN.contains(&new_record(given).as_str()));
        if is_taken || !is_identifier(given) {
            let why = if is_taken { "is used otherwise" } else { "is no name for a type" };
            return Err(Box::new(
                Diagnostic::error(code::TYPE_NAME, format!("\"{given}\" {why}"))
                    .at(format!("--type-name {of}=…"))
                    .mend("choose another one of letters, digits and _"),
            ));
        }
        return Ok(given.clone());
    }
    Ok(match choices.form {
        Form::Original => original(of),
        Form::Corrected => {
            let name = corrected(of);
            let is_taken =
                |name: &str| TAKEN.contains(&name) || TAKEN.contains(&new_record(name).as_str());
            if is_taken(&name) { format!("{name}{kind}") } else { name }
        }
    })
}

/// The name of a type as the original has it, also for types of columns.
pub fn original(name: &str) -> String {
    if name == "brain_waves" {
        return "BrainWave".to_owned();
    }
    let one = singular::original(name);
    match one.contains('_') {
        true => one.split('_').map(title).collect(),
        false => capital(&one),
    }
}

/// The same with the corrected singular; what cannot stand in a name parts words.
fn corrected(name: &str) -> String {
    let one = singular::corrected(name);
    let words = one.split(|letter: char| !letter.is_alphanumeric());
    let joined: String = words.map(capital).collect();
    match is_identifier(&joined) {
        true => joined,
        false => format!("_{joined}").chars().filter(|l| is_identifier(&format!("_{l}"))).collect(),
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters.as_str().chars()).collect()
}

/// The first letter behind what is no letter is upper case, every other one lower.
fn title(word: &str) -> String {
    let mut behind_letter = false;
    let mut out = String::with_capacity(word.len());
    for letter in word.chars() {
        match behind_letter {
            true => out.extend(letter.to_lowercase()),
            false => out.extend(letter.to_uppercase()),
        }
        behind_letter = letter.is_alphabetic();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_called_after_one_row() {
        for (table, name, original_name) in [
            ("invoices", "Invoice", "Invoice"),
            ("phone_numbers", "PhoneNumber", "PhoneNumber"),
            ("user_people", "UserPerson", "UserPeople"),
            ("people", "Person", "Person"),
            ("brain_waves", "BrainWave", "BrainWave"),
            ("user_moves", "UserMove", "UserMofe"),
            ("step_2fa_codes", "Step2faCode", "Step2FaCode"),
            ("colors", "Color", "Color"),
            ("tUser", "TUser", "TUser"),
        ] {
            assert_eq!(corrected(table), name);
            assert_eq!(original(table), original_name);
        }
        for (table, name) in [
            ("2fa_codes", "_2faCode"),
            ("order items", "OrderItem"),
            ("a-b.c's", "ABCS"),
            ("!!", "_"),
            ("größen", "Größen"),
        ] {
            assert_eq!(corrected(table), name);
        }
    }

    #[test]
    fn the_names_that_are_taken_are_in_order_and_once() {
        assert!(TAKEN.is_sorted_by(|left, right| left < right));
    }
}
