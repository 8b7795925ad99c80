//! A question to the rules and its answer: who somebody is, what they may, and what becomes of a message.

pub mod admit;
pub mod breaker;
pub mod decision;
pub mod pace;
pub mod redact;
pub mod remembered;
pub mod retention;
pub mod rules;
pub mod shown;
pub mod turns;
pub mod view;
pub mod votes;
pub mod who;
