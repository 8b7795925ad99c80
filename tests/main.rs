//! What Aether promises, told from outside on real sockets: a file a promise.

mod common;

mod attacks;
mod auth;
mod cli_clients;
mod config_and_cli;
mod cookies;
mod crash;
mod docs;
mod fan_out;
mod frames;
mod fuzz;
mod http;
mod idempotency;
mod idle_channels;
mod kv;
mod layers;
mod limits;
mod log_contract;
mod metrics;
mod model;
mod operator;
mod order;
mod origin;
mod page;
mod payload;
mod poll;
mod real_clients;
mod resume;
mod slow_readers;
mod sse;
mod stopping;
mod tls;
mod vanished;
mod ws;
