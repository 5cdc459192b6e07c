//! Keys of write checkpoints: whose, and of which of his client databases.
//!
//! Lengths stand before both parts, so that no two pairs have one key, and the user's part can be read
//! from the front: `t2:u1/6:phone1` is client `phone1` of user `t2:u1`.

/// The key of a user's client; without a client that of the user himself.
///
/// - Takes: the user's key, `<type><length>:<subject>` (`hw_auth::Principal::key`).
pub fn join(user: &str, client_id: Option<&str>) -> String {
    match client_id {
        Some(client_id) => format!("{user}/{}:{client_id}", client_id.len()),
        None => user.to_owned(),
    }
}

/// The user's part of a key; all of a text that is none.
pub fn owner(key: &str) -> &str {
    let subject = || {
        let (length, _) = key.get(1..)?.split_once(':')?;
        let begins = 1 + length.len() + 1;
        key.get(..begins.checked_add(length.parse().ok()?)?)
    };
    subject().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_key_is_whose_it_was_made() {
        for user in ["t2:u1", "t0:", "n1:7", "t9:u1/3:a:/0", "t4:\u{e9}\u{300}"] {
            for client in [None, Some(""), Some("phone"), Some("t2:u1/1:x")] {
                assert_eq!(owner(&join(user, client)), user);
            }
        }
        for none in ["", "amy", "t99:u1", "t2", "t99999999999999999999999:u"] {
            assert_eq!(owner(none), none);
        }
    }
}
