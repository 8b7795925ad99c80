//! The first Aether: what its documentation says, statement by statement, is true of this hub for clients and back ends that change nothing.
//!
//! `docs/migrating.md` says where this hub differs on purpose; each of those has its test here too.

mod acceptance;
mod clients;
mod golden;
mod http;
mod keys;
mod operations;
mod scenarios;
mod settings;
mod tokens;
mod webhooks;
mod ws;
