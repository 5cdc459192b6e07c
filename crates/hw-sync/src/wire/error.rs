//! Error bodies in PowerSync's manner (`powersync-protocol.md` 2.4).
//!
//! What flows in: what went wrong. What flows out: status and JSON body. The outer text here is
//! for the caller; what only an operator may know goes to the log where the error is handled.

use hw_http::Refusal;

use super::json;

/// An error that a client is told before its response has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorBody {
    /// HTTP status, repeated in the body.
    pub status: u16,
    /// Stable code such as `PSYNC_S2101`.
    pub code: &'static str,
    /// Class of error, which some clients print.
    pub name: &'static str,
    /// One line for the caller.
    pub description: String,
    /// Extra text; for a validation error a JSON array of messages, as text.
    pub details: Option<String>,
}

impl ErrorBody {
    fn new(status: u16, code: &'static str, name: &'static str, description: &str) -> ErrorBody {
        ErrorBody { status, code, name, description: description.to_owned(), details: None }
    }

    /// 400: the body or the parameters are not of the documented form. `messages` name fields and
    /// forms, never values.
    pub fn validation(messages: &[String]) -> ErrorBody {
        let mut details = vec![b'['];
        for (i, message) in messages.iter().enumerate() {
            if i > 0 {
                details.push(b',');
            }
            json::string(&mut details, message);
        }
        details.push(b']');
        ErrorBody {
            details: Some(String::from_utf8(details).expect("JSON of strings is UTF-8")),
            ..ErrorBody::new(400, "PSYNC_S2001", "ValidationError", "Validation failed")
        }
    }

    /// 400: the body is not JSON.
    pub fn not_json() -> ErrorBody {
        ErrorBody::new(
            400,
            "FST_ERR_CTP_INVALID_JSON_BODY",
            "FastifyError",
            "Body is not valid JSON",
        )
    }

    /// 413: the body is larger than the service takes.
    pub fn body_too_large() -> ErrorBody {
        ErrorBody::new(
            413,
            "FST_ERR_CTP_BODY_TOO_LARGE",
            "FastifyError",
            "Request body is too large",
        )
    }

    /// 401: the token was refused; `code` and `description` come from the authenticator and are
    /// safe to show.
    pub fn authorization(code: &'static str, description: &str) -> ErrorBody {
        ErrorBody::new(401, code, "AuthorizationError", description)
    }

    /// 404: a path below one of this surface's prefixes that does not exist, or not with this
    /// method.
    pub fn route_not_found() -> ErrorBody {
        ErrorBody::new(
            404,
            "PSYNC_S2002",
            "RouteNotFound",
            "The path does not exist on this server",
        )
    }

    /// 415: the client takes only an encoding that this service does not write.
    pub fn unsupported_media_type() -> ErrorBody {
        ErrorBody {
            details: Some("this service writes application/x-ndjson".into()),
            ..ErrorBody::new(415, "PSYNC_S2004", "ServiceError", "Unsupported media type")
        }
    }

    /// 429: as many streams or requests are running as the configuration allows.
    pub fn too_many_connections() -> ErrorBody {
        ErrorBody::new(
            429,
            "PSYNC_S2304",
            "ServiceError",
            "Maximum active concurrent connections limit has been reached",
        )
    }

    /// 400: the user's buckets, or what they are computed from, are more than the limit.
    pub fn too_much(description: &str) -> ErrorBody {
        ErrorBody::new(400, "PSYNC_S2305", "ServiceError", description)
    }

    /// 500: no sync configuration is served yet.
    pub fn no_sync_config() -> ErrorBody {
        ErrorBody::new(500, "PSYNC_S2302", "ServiceError", "No sync rules available")
    }

    /// 503: shutting down, or the client is ahead of this server (E-10).
    pub fn unavailable(description: &str) -> ErrorBody {
        ErrorBody::new(503, "PSYNC_S2003", "ServiceUnavailable", description)
    }

    /// 503: the server ends.
    pub fn stopping() -> ErrorBody {
        ErrorBody::unavailable("Server is stopping")
    }

    /// 500: anything unexpected. What it was goes to the log only.
    pub fn internal() -> ErrorBody {
        ErrorBody::new(500, "PSYNC_S2001", "InternalServerError", "Something went wrong")
    }

    /// 400: more subscriptions than one client may have buckets.
    pub fn too_many_subscriptions(count: usize, limit: usize) -> ErrorBody {
        ErrorBody::too_much(&format!("Too many subscriptions: {count} (limit of {limit})"))
    }

    /// The body: `{"error":{…}}`.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(b"{\"error\":{\"name\":");
        json::string(&mut out, self.name);
        out.extend_from_slice(b",\"code\":");
        json::string(&mut out, self.code);
        out.extend_from_slice(b",\"status\":");
        json::integer(&mut out, self.status);
        out.extend_from_slice(b",\"description\":");
        json::string(&mut out, &self.description);
        if let Some(details) = &self.details {
            out.extend_from_slice(b",\"details\":");
            json::string(&mut out, details);
        }
        out.extend_from_slice(b"}}");
        out
    }
}

impl From<Refusal> for ErrorBody {
    fn from(refusal: Refusal) -> ErrorBody {
        match refusal {
            Refusal::Token(error) => ErrorBody::authorization(error.code(), error.description()),
            Refusal::TooLarge { .. } => ErrorBody::body_too_large(),
            // The client went away or is too slow to be served; nobody may read this.
            Refusal::TooSlow | Refusal::BrokenOff => ErrorBody::not_json(),
            Refusal::BodiesFull => {
                ErrorBody::unavailable("Too much is being sent at the moment; come again")
            }
            Refusal::UserBusy => ErrorBody::too_many_connections(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: &ErrorBody, expected: &str) {
        assert_eq!(String::from_utf8(error.to_json()).unwrap(), expected);
    }

    #[test]
    fn bodies_have_the_form_that_clients_parse() {
        check(
            &ErrorBody::authorization("PSYNC_S2103", "JWT has expired"),
            r#"{"error":{"name":"AuthorizationError","code":"PSYNC_S2103","status":401,"description":"JWT has expired"}}"#,
        );
        check(
            &ErrorBody::validation(&["buckets: must be an array".into(), "a \"b\"".into()]),
            r#"{"error":{"name":"ValidationError","code":"PSYNC_S2001","status":400,"description":"Validation failed","details":"[\"buckets: must be an array\",\"a \\\"b\\\"\"]"}}"#,
        );
        check(
            &ErrorBody::route_not_found(),
            r#"{"error":{"name":"RouteNotFound","code":"PSYNC_S2002","status":404,"description":"The path does not exist on this server"}}"#,
        );
    }
}
