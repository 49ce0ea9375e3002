//! The admin port: faults and the request log over HTTP, in JSON, for people and scripts.

use std::convert::Infallible;
use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use s3s::Body;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::delay::Delay;
use crate::faults::{Faults, Rule, RuleId};
use crate::log::{RequestLog, max_in_flight, round_trips};

/// Bytes of a request, at most.
const MAX_BODY: usize = 64 << 10;

const HELP: &str = "\
GET    /rules                 the rules in force, with hits
POST   /rules                 adds one: {\"kinds\":[\"create\"],\"key\":\"log/*\",\"times\":1,\"action\":\"apply_then_drop\"}
DELETE /rules                 removes all (what they stall goes on)
DELETE /rules/ID              removes one
POST   /rules/ID/release      lets go on what it stalls
GET    /delay                 the delay of every request
PUT    /delay                 sets it: {\"delay\":\"20ms\"}, {\"delay\":\"lognormal:20ms,1.5\"}, {\"delay\":null}
GET    /counts                requests by kind, bytes, round trips
GET    /log                   the latest requests, as text (/log?json: as JSON)
DELETE /log                   forgets requests and counts
";

#[derive(Clone)]
pub(crate) struct Admin {
    pub faults: Arc<Faults>,
    pub log: Arc<RequestLog>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetDelay {
    delay: Option<Delay>,
}

enum Answer {
    Json(Value),
    Text(String),
    Refused(StatusCode, String),
}

impl Admin {
    pub async fn call(self, req: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let (head, body) = req.into_parts();
        let answer = match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => self.answer(&head.method, head.uri.path(), head.uri.query(), &body.to_bytes()),
            Err(e) => Answer::Refused(StatusCode::BAD_REQUEST, e.to_string()),
        };
        let (status, kind, text) = match answer {
            Answer::Json(v) => (StatusCode::OK, "application/json", format!("{v}\n")),
            Answer::Text(t) => (StatusCode::OK, "text/plain; charset=utf-8", t),
            Answer::Refused(s, why) => (s, "application/json", format!("{}\n", json!({ "error": why }))),
        };
        let mut reply = Response::new(Body::from(text));
        *reply.status_mut() = status;
        reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(reply)
    }

    fn answer(&self, method: &Method, path: &str, query: Option<&str>, body: &[u8]) -> Answer {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (method.as_str(), parts.as_slice()) {
            ("GET", [""]) => Answer::Text(HELP.into()),
            ("GET", ["rules"]) => Answer::Json(json!(self.faults.rules())),
            ("POST", ["rules"]) => match serde_json::from_slice::<Rule>(body) {
                Ok(rule) => Answer::Json(json!({ "id": self.faults.add(rule) })),
                Err(e) => Answer::Refused(StatusCode::BAD_REQUEST, e.to_string()),
            },
            ("DELETE", ["rules"]) => {
                self.faults.clear();
                Answer::Json(json!({}))
            }
            ("DELETE", ["rules", id]) => self.rule(id, Faults::remove),
            ("POST", ["rules", id, "release"]) => self.rule(id, Faults::release),
            ("GET", ["delay"]) => Answer::Json(json!({ "delay": self.faults.delay() })),
            ("PUT", ["delay"]) => match serde_json::from_slice::<SetDelay>(body) {
                Ok(set) => {
                    self.faults.set_delay(set.delay);
                    Answer::Json(json!({}))
                }
                Err(e) => Answer::Refused(StatusCode::BAD_REQUEST, e.to_string()),
            },
            ("GET", ["counts"]) => Answer::Json(self.counts()),
            ("GET", ["log"]) if query == Some("json") => Answer::Json(json!(self.log.entries())),
            ("GET", ["log"]) => Answer::Text(self.log.dump()),
            ("DELETE", ["log"]) => {
                self.log.clear();
                Answer::Json(json!({}))
            }
            _ => Answer::Refused(StatusCode::NOT_FOUND, format!("{method} {path} is nothing; GET / shows what is")),
        }
    }

    fn rule(&self, id: &str, what: impl Fn(&Faults, RuleId) -> bool) -> Answer {
        match id.parse() {
            Ok(number) if what(&self.faults, RuleId(number)) => Answer::Json(json!({})),
            _ => Answer::Refused(StatusCode::NOT_FOUND, format!("there is no rule {id}")),
        }
    }

    fn counts(&self) -> Value {
        let entries = self.log.entries();
        let (bytes_in, bytes_out) = self.log.bytes();
        json!({
            "total": self.log.total(),
            "kinds": self.log.counts(),
            "in_flight": self.log.in_flight(),
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "round_trips": round_trips(&entries),
            "max_in_flight": max_in_flight(&entries),
        })
    }
}
