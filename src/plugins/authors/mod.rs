//! For authors: what a plugin is, whether it is right, and what it costs.

pub mod bench;
pub mod editor;
pub mod inspect;
pub mod portrait;
pub mod reference;
pub mod testing;
