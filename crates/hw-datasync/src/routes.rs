//! The routes of this surface.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Query, State};
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use hw_http::socket::ConnectionHandle;
use hw_http::{ApiError, Refusal, Surface};
use hw_types::Code;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use crate::arriving::READ_BUFFER;
use crate::caller::{caller, peer_of};
use crate::code;
use crate::drive;
use crate::options::DataSyncOptions;
use crate::rest;
use crate::server::DataSync;

/// This surface as the server registers it.
pub fn surface(server: DataSync) -> Surface {
    let of_bounds = server.clone();
    Surface {
        name: "datasync",
        routes: routes(server),
        prefixes: &["/api/", "/DataSyncController"],
        not_found: || ApiError::not_found().into_response(),
        bounds: Arc::new(move || of_bounds.bounds()),
    }
}

/// All routes of this surface.
pub fn routes(server: DataSync) -> Router {
    let cors = cors(&server.options);
    let tables = Router::new()
        .route("/api/{table}", any(rest::table))
        .route("/api/{table}/{id}", any(rest::row))
        .layer(cors);
    Router::new().route("/DataSyncController", any(socket)).merge(tables).with_state(server)
}

/// Pages of any origin may show a token; a cookie is sent for those alone for which it counts.
fn cors(options: &DataSyncOptions) -> CorsLayer {
    let cors = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers([header::CONTENT_TYPE, header::AUTHORIZATION])
        .max_age(Duration::from_secs(3600));
    match &options.cookie {
        None => cors.allow_origin(Any),
        Some(_) => {
            let origins: Vec<HeaderValue> =
                options.origins.iter().filter_map(|origin| origin.parse().ok()).collect();
            cors.allow_origin(AllowOrigin::list(origins)).allow_credentials(true)
        }
    }
}

/// Parameters of a query, as often as they stand there.
pub(crate) type Parameters =
    Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>;

async fn socket(
    State(server): State<DataSync>,
    headers: HeaderMap,
    query: Parameters,
    extensions: Extensions,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let Ok(upgrade) = upgrade else {
        let text = "This endpoint is only available via a WebSocket";
        return Ok((StatusCode::BAD_REQUEST, text).into_response());
    };
    let Ok(Query(query)) = query else {
        let what = "The parameters of the query cannot be read";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, Code(code::MESSAGE), what));
    };
    let peer = peer_of(&extensions);
    let caller = caller(&server.edge, &server.options, &headers, &query, peer).await?;
    let place = server.sockets.take(caller.holder()).map_err(|_| Refusal::UserBusy)?;
    let connection = extensions.get::<ConnectionHandle>().cloned();
    let most = server.options.message_bytes;
    Ok(upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(most)
        .max_frame_size(most)
        .on_upgrade(move |socket| drive::run(server, caller, socket, connection, place)))
}
