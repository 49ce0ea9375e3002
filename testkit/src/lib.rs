//! Test tools. [`S3d`] is a real S3 server (SigV4, XML, ranges, conditional PUTs that are atomic) with faults on demand.
//!
//! ```
//! use esker_testkit::{Action, Kind, Rule, S3d, S3dOptions};
//!
//! let s3d = S3d::start(S3dOptions::default()).expect("loopback has a free port");
//! println!("{} {:?}", s3d.endpoint(), s3d.env());
//! // The second and third create below log/ are applied, but their replies never arrive.
//! s3d.faults().add(Rule::on([Kind::Create]).key("log/*").skip(1).times(2).then(Action::ApplyThenDrop));
//! assert_eq!(s3d.log().total(), 0);
//! ```
//!
//! | module | what it is about |
//! | --- | --- |
//! | [`S3d`] | starting and stopping a server |
//! | [`Faults`], [`Rule`], [`Action`], [`Delay`] | what goes wrong, when and how |
//! | [`RequestLog`] | which requests came, how many, how long they took |
//! | [`NbdClient`] | a pipelined NBD client |
//! | [`Proxy`] | a line to a server that can be cut, and goes dead |
//! | [`served`] | the program under test: hosts, servers on them, clients that put load on them |
//! | [`History`] | what clients did to a volume, and whether what is found on it can have come of that |
//!
//! The S3 protocol is the s3s crate's. Objects are plain files below the server's directory, under their own keys, so that
//! a test can damage one with ordinary tools. s3s-fs is not used: its creates and swaps are not atomic, every LIST of it
//! walks the whole bucket, and entity tags are missing from listings.

mod admin;
mod delay;
mod disk;
mod faults;
mod front;
mod history;
mod log;
mod nbd;
mod proxy;
mod s3;
pub mod served;
mod server;

pub use delay::Delay;
pub use faults::{Action, ActiveRule, Faults, Rule, RuleId};
pub use history::{BLOCK, History, Keeps, Outcome, Violation, What, read_stamp, stamped};
pub use log::{Entry, Kind, RequestLog, max_in_flight, round_trips};
pub use nbd::{EIO, NbdClient, NbdError, NbdRequest, NbdResult};
pub use proxy::{Line, Proxy};
pub use server::{S3d, S3dOptions};
