mod docs;
mod page;
