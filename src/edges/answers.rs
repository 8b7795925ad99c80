//! What HTTP answers are made of, refusals too; and bodies as they are read.

use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use warp::http::StatusCode;
use warp::http::header::{self, HeaderValue};
use warp::reply::Response;

use super::caller::Caller;
use super::wire::{ErrorBody, Fault};

pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    json_bytes(status, body)
}

pub fn json_bytes(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Bytes::from(body).into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub fn refuse(fault: &Fault) -> Response {
    refuse_until(fault, fault.retry_ms())
}

pub fn refuse_until(fault: &Fault, retry_ms: Option<u64>) -> Response {
    #[derive(Serialize)]
    struct Refused<'a> {
        ok: bool,
        error: ErrorBody<'a>,
    }
    let status = StatusCode::from_u16(fault.numbers().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let error = ErrorBody { retry_ms, ..fault.body() };
    let mut response = json(status, &Refused { ok: false, error });
    let extra = match status {
        StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
        StatusCode::UPGRADE_REQUIRED => Some((header::UPGRADE, "websocket")),
        // What is left of the body would be taken for the next request.
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => Some((header::CONNECTION, "close")),
        _ => None,
    };
    if let Some((name, value)) = extra {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    put_retry_after(&mut response, retry_ms);
    response
}

/// Says when to come back where the status says that coming back helps.
pub fn put_retry_after(response: &mut Response, retry_ms: Option<u64>) {
    if matches!(response.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        let seconds = retry_ms.unwrap_or(1000).div_ceil(1000).max(1);
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
}

/// Reads a body that has an end, in size and in time.
pub async fn read_body<B: Buf>(
    caller: &Caller,
    body: impl Stream<Item = Result<B, warp::Error>> + Send,
    max: usize,
    timeout: Duration,
) -> Result<Bytes, Fault> {
    let announced = caller.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max as u64) {
        return Err(Fault::TooLarge { max });
    }
    let read = async {
        // What was announced need not come: memory follows what does.
        let mut bytes = Vec::with_capacity((announced.unwrap_or(0) as usize).min(64 * 1024));
        let mut body = std::pin::pin!(body);
        while let Some(chunk) = body.next().await {
            let mut chunk = chunk.map_err(|_| Fault::Json("the request's body broke off".into()))?;
            if bytes.len() + chunk.remaining() > max {
                return Err(Fault::TooLarge { max });
            }
            while chunk.has_remaining() {
                let part = chunk.chunk();
                bytes.extend_from_slice(part);
                let length = part.len();
                chunk.advance(length);
            }
        }
        Ok(Bytes::from(bytes))
    };
    tokio::time::timeout(timeout, read).await.unwrap_or(Err(Fault::SlowBody))
}
