//! The VMs that live on a thread: one per generation, built when the thread first needs it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::{Failure, Vm};
use crate::plugins::source::generation::Generation;

struct Resident {
    generation: u64,
    alive: Weak<Generation>,
    vm: Result<Rc<Vm>, (Instant, String)>,
}

thread_local! {
    static VMS: RefCell<Vec<Resident>> = const { RefCell::new(Vec::new()) };
}

/// A VM that could not be built is tried again after this; until then everything that needs it is denied.
const RETRY: Duration = Duration::from_secs(1);

/// Runs `ask` with this thread's VM of `generation`.
pub fn with_vm<R>(generation: &Arc<Generation>, ask: impl FnOnce(&Vm) -> Result<R, Failure>) -> Result<R, Failure> {
    let vm = vm_of(generation)?;
    let answer = ask(&vm);
    if vm.is_exhausted() {
        make_room(generation);
    }
    answer
}

/// This thread's VM of `generation`, for calls that wait; it is looked at for room when the next one comes.
pub fn vm_of(generation: &Arc<Generation>) -> Result<Rc<Vm>, Failure> {
    let fails = |why| Failure { why, rests: false };
    let vm = current(generation).map_err(fails)?;
    if !vm.is_exhausted() {
        return Ok(vm);
    }
    make_room(generation);
    current(generation).map_err(fails)
}

fn make_room(generation: &Generation) {
    tracing::warn!("a Lua VM is full and makes room for a new one");
    VMS.with_borrow_mut(|vms| vms.retain(|resident| resident.generation != generation.id));
}

fn current(generation: &Arc<Generation>) -> Result<Rc<Vm>, String> {
    let found = VMS.with_borrow(|vms| {
        vms.iter().find(|resident| resident.generation == generation.id).and_then(|resident| match &resident.vm {
            Ok(vm) => Some(Ok(vm.clone())),
            Err((since, why)) => (since.elapsed() < RETRY).then(|| Err(why.clone())),
        })
    });
    found.unwrap_or_else(|| {
        let built = generation.build_vm().map(Rc::new).map_err(|errors| errors.join("; "));
        let vm = built.clone().map_err(|why| (Instant::now(), why));
        VMS.with_borrow_mut(|vms| {
            vms.retain(|resident| resident.alive.strong_count() > 0 && resident.generation != generation.id);
            vms.push(Resident { generation: generation.id, alive: Arc::downgrade(generation), vm });
        });
        built
    })
}
