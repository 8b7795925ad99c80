//! From files to hooks: what an author wrote, read, checked and held as one generation.

pub mod about;
pub mod change;
pub mod foresight;
pub mod generation;
pub mod handover;
pub mod manifest;
pub mod roster;
pub mod schema;
pub mod unit;
