//! The units of one VM: each is loaded once, in their order or when another requires it, and may export a table.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use mlua::{Function, Lua, Table, Value};

use super::generation::{Program, Registration};
use super::schema::hint;
use crate::plugins::api::{Seat, absent};
use crate::plugins::vm::value::{located, raise};
use crate::plugins::vm::{environment, load};

pub struct Roster {
    base: Table,
    seats: Vec<Rc<Seat>>,
    stands: RefCell<Vec<Stand>>,
    /// Those that are being loaded, each required by the one before.
    chain: RefCell<Vec<usize>>,
}

#[derive(Clone)]
enum Stand {
    Waiting,
    Loading(Option<Table>),
    Loaded(Option<Table>),
    Broken,
}

impl Roster {
    pub fn new(program: &Arc<Program>, base: Table) -> Roster {
        let seats: Vec<_> = (0..program.units.len()).map(|at| Rc::new(Seat::new(program.clone(), at))).collect();
        let stands = RefCell::new(vec![Stand::Waiting; seats.len()]);
        Roster { base, seats, stands, chain: RefCell::default() }
    }

    /// Of the VM at hand; a file of tests is alone in its own.
    pub fn of(lua: &Lua) -> Option<Rc<Roster>> {
        lua.app_data_ref::<Rc<Roster>>().map(|roster| Rc::clone(&roster))
    }

    pub fn seats(&self) -> &[Rc<Seat>] {
        &self.seats
    }

    /// Everything that the units have registered, in the order of the units, whichever of them was loaded first.
    pub fn registered(&self) -> (Vec<Registration>, Vec<Function>) {
        self.seats.iter().flat_map(|seat| seat.registered.take()).unzip()
    }

    /// Every fault, in the order of the units.
    pub fn errors(&self) -> Vec<String> {
        self.seats.iter().flat_map(|seat| seat.errors.take()).collect()
    }

    /// Runs a unit's file, unless that was done.
    pub fn load(&self, lua: &Lua, at: usize) -> mlua::Result<()> {
        if !matches!(self.stand(at), Stand::Waiting) {
            return Ok(());
        }
        self.put(at, Stand::Loading(None));
        self.chain.borrow_mut().push(at);
        let seat = &self.seats[at];
        let loaded = environment(lua, &self.base, seat)
            .and_then(|env| load(lua, &env, seat.unit(), &seat.unit().entry))
            .and_then(|file| file.call::<()>(()));
        self.chain.borrow_mut().pop();
        seat.loading.set(false);
        let stand = match (self.stand(at), &loaded) {
            (Stand::Loading(exports), Ok(())) => Stand::Loaded(exports),
            _ => Stand::Broken,
        };
        self.put(at, stand);
        loaded
    }

    /// The first export of the unit that is being loaded; later ones are refused.
    pub fn export(&self, at: usize, table: Table) -> bool {
        let first = matches!(self.stand(at), Stand::Loading(None));
        if first {
            self.put(at, Stand::Loading(Some(table)));
        }
        first
    }

    /// What the plugin `name` exports to `by`; it is loaded first if it was not yet.
    pub fn require(&self, lua: &Lua, by: &Seat, name: &str) -> mlua::Result<Value> {
        let wrong = |why: String| Err(raise(lua, format!("require(\"@{name}\"): {why}")));
        let plugins = || self.seats.iter().map(|seat| seat.unit()).filter(|unit| unit.is_plugin());
        let Some(at) = self.seats.iter().position(|seat| seat.unit().is_plugin() && seat.unit().name == name) else {
            let names = plugins().map(|unit| &unit.name);
            return wrong(format!("no plugin of this name is used in aether.toml{}", hint(name, names)));
        };
        let unit = self.seats[at].unit();
        if unit.name == by.unit().name && by.unit().is_plugin() {
            return wrong("a plugin requires its own files by their path: \"./lib\"".into());
        }
        if let Stand::Loading(_) = self.stand(at) {
            let chain = self.chain.borrow();
            let from = chain.iter().position(|loading| *loading == at).unwrap_or_default();
            let circle = chain[from..].iter().chain([&at]).map(|at| format!("@{}", self.seats[*at].unit().name));
            return wrong(format!("they require each other: {}", circle.collect::<Vec<_>>().join(" -> ")));
        }
        if let Err(error) = self.load(lua, at) {
            let seat = &self.seats[at];
            let why = absent::explained(lua, located(&error, &unit.shown(&unit.entry)));
            seat.errors.borrow_mut().push(why);
        }
        match self.stand(at) {
            Stand::Loaded(Some(exports)) => Ok(Value::Table(exports)),
            Stand::Loaded(None) => wrong(format!("{name} exports nothing: it has no aether.export{{..}}")),
            _ => wrong(format!("{name} does not load")),
        }
    }

    fn stand(&self, at: usize) -> Stand {
        self.stands.borrow()[at].clone()
    }

    fn put(&self, at: usize, stand: Stand) {
        self.stands.borrow_mut()[at] = stand;
    }
}
