//! The HTTP side: reads a request whole, decides about faults, has it applied, answers.
//!
//! A request is applied in a task of its own: a client that goes away does not undo it, as with any real store.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, IF_MATCH, IF_NONE_MATCH, RANGE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use s3s::Body;
use s3s::service::S3Service;
use thiserror::Error;

use crate::faults::{Action, Faults, Plan};
use crate::log::{Entry, Kind, RequestLog};
use crate::s3::IgnoreIfNoneMatch;

/// Bytes of a request's body, at most.
const MAX_BODY: usize = 1 << 30;

/// Ends the connection without an answer.
#[derive(Debug, Error)]
#[error("the connection is dropped")]
pub(crate) struct Dropped;

/// What one connection needs.
#[derive(Clone)]
pub(crate) struct Front {
    pub s3: S3Service,
    pub faults: Arc<Faults>,
    pub log: Arc<RequestLog>,
}

/// What a request is about.
struct Target {
    kind: Kind,
    bucket: String,
    key: String,
}

impl Front {
    /// Answers one request, or drops its connection.
    pub async fn call(self, req: Request<Incoming>) -> Result<Response<Body>, Dropped> {
        let begin = self.log.now();
        let target = target(req.method(), req.uri(), req.headers());
        let range = req.headers().get(RANGE).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut entry = Entry {
            number: 0,
            kind: target.kind,
            method: req.method().to_string(),
            bucket: target.bucket,
            key: target.key,
            range,
            status: 0,
            fault: None,
            bytes_in: 0,
            bytes_out: 0,
            begin,
            end: begin,
        };
        let (head, body) = req.into_parts();
        let Ok(body) = read(&head.headers, body).await else {
            entry.fault = Some("the client went away".into());
            entry.end = self.log.now();
            self.log.push(entry);
            return Err(Dropped);
        };
        entry.bytes_in = body.len() as u64;
        self.log.arrived();
        let task = tokio::spawn(async move {
            let plan = self.faults.plan(entry.kind, &entry.bucket, &entry.key);
            entry.fault = plan.action.as_ref().map(Action::name);
            let reply = self.apply(Request::from_parts(head, Body::from(body)), plan).await;
            if let Ok(reply) = &reply {
                entry.status = reply.status().as_u16();
                entry.bytes_out = reply.body().size_hint().lower();
            }
            entry.end = self.log.now();
            self.log.push(entry);
            self.log.left();
            reply
        });
        task.await.map_err(|_| Dropped)?
    }

    async fn apply(&self, mut req: Request<Body>, plan: Plan) -> Result<Response<Body>, Dropped> {
        if plan.delay > Duration::ZERO {
            tokio::time::sleep(plan.delay).await;
        }
        let is_head = req.method() == Method::HEAD;
        match &plan.action {
            Some(Action::Reply { status, code }) => return Ok(error(*status, code, is_head)),
            Some(Action::Drop) => return Err(Dropped),
            Some(Action::Pretend) => return Ok(lie()),
            Some(Action::Stall) => wait(plan.gate.clone()).await,
            Some(Action::IgnoreIfNoneMatch) => {
                req.extensions_mut().insert(IgnoreIfNoneMatch);
            }
            _ => {}
        }
        let reply = self.s3.call(req).await.map_err(|_| Dropped)?;
        match plan.action {
            Some(Action::ApplyThenReply { status, code }) => Ok(error(status, &code, is_head)),
            Some(Action::ApplyThenDrop) => Err(Dropped),
            Some(Action::ApplyThenStall) => {
                wait(plan.gate).await;
                Ok(reply)
            }
            Some(Action::CutBody { keep }) => damage(reply, |body| cut(body, keep)).await,
            Some(Action::ShortBody { keep }) => damage(reply, |body| short(body, keep)).await,
            Some(Action::FlipByte { at }) => damage(reply, |body| flip(body, at)).await,
            _ => Ok(reply),
        }
    }
}

/// Waits until the rule is released or removed.
async fn wait(gate: Option<tokio::sync::watch::Receiver<bool>>) {
    if let Some(mut gate) = gate {
        // An error means that the rule was removed.
        drop(gate.wait_for(|released| *released).await);
    }
}

async fn read(headers: &HeaderMap, body: Incoming) -> Result<Bytes, Dropped> {
    let expected = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0usize);
    let mut all = BytesMut::with_capacity(expected.min(MAX_BODY));
    let mut body = body.into_data_stream();
    while let Some(part) = body.next().await {
        let part = part.map_err(|_| Dropped)?;
        if all.len() + part.len() > MAX_BODY {
            return Err(Dropped);
        }
        all.extend_from_slice(&part);
    }
    Ok(all.freeze())
}

/// Changes a reply's body; error replies are left alone.
async fn damage(reply: Response<Body>, how: impl FnOnce(Bytes) -> (Body, u64)) -> Result<Response<Body>, Dropped> {
    if !reply.status().is_success() {
        return Ok(reply);
    }
    let (mut head, body) = reply.into_parts();
    let bytes = BodyExt::collect(body).await.map_err(|_| Dropped)?.to_bytes();
    let (body, length) = how(bytes);
    if head.headers.contains_key(CONTENT_LENGTH) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(Response::from_parts(head, body))
}

fn first(body: &Bytes, keep: u64) -> Bytes {
    body.slice(..usize::try_from(keep).unwrap_or(usize::MAX).min(body.len()))
}

fn cut(body: Bytes, keep: u64) -> (Body, u64) {
    let length = body.len() as u64;
    let parts = [Ok(Frame::data(first(&body, keep))), Err(Dropped)];
    // A pause lets the first part leave before the connection is closed.
    let parts = stream::iter(parts).then(|part| async {
        if part.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        part
    });
    (Body::http_body_unsync(StreamBody::new(parts)), length)
}

fn short(body: Bytes, keep: u64) -> (Body, u64) {
    let body = first(&body, keep);
    let length = body.len() as u64;
    (Body::from(body), length)
}

fn flip(body: Bytes, at: Option<u64>) -> (Body, u64) {
    let mut body = Vec::from(body);
    let middle = body.len() / 2;
    let at = at.and_then(|at| usize::try_from(at).ok()).filter(|at| *at < body.len()).unwrap_or(middle);
    if let Some(byte) = body.get_mut(at) {
        *byte = !*byte;
    }
    let length = body.len() as u64;
    (Body::from(body), length)
}

/// What a PUT is answered with. Of the objects that are there none has this entity tag.
fn lie() -> Response<Body> {
    let mut reply = Response::new(Body::empty());
    reply.headers_mut().insert(ETAG, HeaderValue::from_static("\"there-is-nothing\""));
    reply
}

/// An error as S3 sends it. The code is escaped, for a rule may hold anything.
fn error(status: u16, code: &str, is_head: bool) -> Response<Body> {
    let code = code.replace('&', "&amp;").replace('<', "&lt;");
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>made by s3d</Message></Error>"
    );
    let mut reply = Response::new(if is_head { Body::empty() } else { Body::from(text) });
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    reply
}

fn target(method: &Method, uri: &Uri, headers: &HeaderMap) -> Target {
    let path = decode(uri.path().trim_start_matches('/'));
    let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
    let query = uri.query().unwrap_or_default();
    let argument = |name: &str| {
        query.split('&').find_map(|pair| {
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            (k == name).then(|| decode(&v.replace('+', " ")))
        })
    };
    let object = !key.is_empty();
    let multipart = argument("uploadId").is_some() || argument("uploads").is_some();
    let kind = match *method {
        _ if multipart => Kind::Multipart,
        Method::PUT if object && headers.contains_key("x-amz-copy-source") => Kind::Copy,
        Method::PUT if object && headers.contains_key(IF_NONE_MATCH) => Kind::Create,
        Method::PUT if object && headers.contains_key(IF_MATCH) => Kind::Swap,
        Method::PUT if object => Kind::Put,
        Method::GET if object => Kind::Get,
        Method::HEAD if object => Kind::Head,
        Method::DELETE if object => Kind::Delete,
        Method::POST if argument("delete").is_some() => Kind::DeleteMany,
        Method::GET if !bucket.is_empty() && is_list(query) => Kind::List,
        Method::GET | Method::HEAD | Method::PUT | Method::DELETE => Kind::Bucket,
        _ => Kind::Other,
    };
    let key = if kind == Kind::List { argument("prefix").unwrap_or_default() } else { key.to_owned() };
    Target { kind, bucket: bucket.to_owned(), key }
}

/// A GET of a bucket lists it unless it asks for a sub-resource such as `?location`.
fn is_list(query: &str) -> bool {
    let listing = ["list-type", "prefix", "delimiter", "max-keys", "marker", "start-after", "encoding-type"];
    query.is_empty() || query.split('&').any(|pair| listing.contains(&pair.split('=').next().unwrap_or_default()))
}

/// Percent-decoding; what is no escape stays as it is.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escape = tail.get(..2).and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        match escape {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                rest = &tail[2..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn requests_are_recognised() {
        let create = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static("*"))]);
        let swap = HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_static("\"x\""))]);
        let none = HeaderMap::new();
        for (method, uri, headers, kind, key) in [
            (Method::PUT, "/b/log/1", &create, Kind::Create, "log/1"),
            (Method::PUT, "/b/log/1", &swap, Kind::Swap, "log/1"),
            (Method::PUT, "/b/a%20b%2Fc", &none, Kind::Put, "a b/c"),
            (Method::PUT, "/b/k?partNumber=1&uploadId=u", &none, Kind::Multipart, "k"),
            (Method::GET, "/b/k", &none, Kind::Get, "k"),
            (Method::GET, "/b?list-type=2&prefix=log%2F1", &none, Kind::List, "log/1"),
            (Method::GET, "/b/", &none, Kind::List, ""),
            (Method::GET, "/b?location", &none, Kind::Bucket, ""),
            (Method::POST, "/b?delete", &none, Kind::DeleteMany, ""),
            (Method::GET, "/", &none, Kind::Bucket, ""),
            (Method::PUT, "/b", &create, Kind::Bucket, ""),
        ] {
            let got = target(&method, &uri.parse().unwrap(), headers);
            assert_eq!((got.kind, got.key.as_str()), (kind, key), "{method} {uri}");
        }
    }
}
