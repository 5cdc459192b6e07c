//! What a client must hold, from the rows themselves.

use crate::published::Published;
use crate::tests::client::Client;
use crate::tests::source::{Source, World};
use std::collections::{BTreeMap, BTreeSet};

/// What a user sees of a world: lists, todos of these, and ids of all todos.
pub(super) fn compare(
    client: &Client,
    user: &str,
    published: &Published,
    source: &Source,
    what: &str,
) {
    let sync = published.sync.as_ref().unwrap();
    let end = published.checkpoint.end_lsn;
    // A definition that stands still is compared with the world in which it does.
    let world = |name: &str| {
        let index = sync.config.definitions().iter().position(|d| d.name == name)?;
        // One that waits answers nobody. What everybody had before never does.
        if sync.withheld[index] {
            assert_eq!(name, "everyone", "{what}");
            return None;
        }
        source.world_at(sync.frozen[index].unwrap_or(end))
    };
    let (Some(lists), Some(todos)) = (world("lists"), world("todos")) else { return };
    let owned = |world: &World| -> BTreeSet<String> {
        world.lists.iter().filter(|(_, o)| *o == user).map(|(id, _)| id.clone()).collect()
    };
    // Of a definition that stands still: what he has had ever since. Where the lists are followed, a
    // transaction counts as a whole, and else each change of it.
    let since = sync.config.definitions().iter().position(|d| d.name == "todos").unwrap();
    let since = sync.frozen[since].unwrap_or(end);
    let (mut most, mut least) = (owned(todos), owned(todos));
    for (transaction, world) in
        source.log.iter().filter(|(t, _)| since < t.end_lsn && t.end_lsn <= end)
    {
        most.retain(|list| world.lists.get(list).is_some_and(|owner| owner == user));
        least.retain(|list| !source.takes_away(transaction, list, user, todos));
    }
    if source.rekeyed.iter().any(|at| *at >= since.0.0) {
        least.clear();
    }
    least.retain(|list| most.contains(list));
    let note = if todos.note { ",\"note\":\"n\"" } else { "" };
    let of_lists = |mine: &BTreeSet<String>| -> BTreeMap<String, String> {
        let todos = todos.todos.iter().filter(|(_, (list, _))| mine.contains(list));
        todos
            .map(|(id, (list, text))| {
                let whole =
                    format!("{{\"id\":\"{id}\",\"list\":\"{list}\",\"text\":\"{text}\"{note}}}");
                (id.clone(), whole)
            })
            .collect()
    };
    let (most, least) = (of_lists(&most), of_lists(&least));
    let got = client.ids("todos");
    match world("everyone") {
        Some(everyone) => {
            let ids = |mine: &BTreeMap<String, String>| -> BTreeSet<String> {
                mine.keys().chain(everyone.todos.keys()).cloned().collect()
            };
            let got: BTreeSet<String> = got.into_keys().collect();
            assert!(got.is_subset(&ids(&most)), "all todos {what}: {got:?} of {most:?}");
            assert!(got.is_superset(&ids(&least)), "all todos {what}: {got:?} of {least:?}");
        }
        None if most == least => assert_eq!(got, most, "todos of {user} {what}"),
        None => {
            let had = |(id, todo): (&String, &String)| most.get(id) == Some(todo);
            assert!(got.iter().all(had), "todos of {user} {what}: {got:?} of {most:?}");
            let has = |(id, todo): (&String, &String)| got.get(id) == Some(todo);
            assert!(least.iter().all(has), "todos of {user} {what}: {got:?} of {least:?}");
        }
    }
    let got: BTreeSet<String> = client.ids("lists").into_keys().collect();
    assert_eq!(got, owned(lists), "lists of {user} {what}");
}
