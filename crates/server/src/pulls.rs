//! Fetches of models under way. Who asks for a model that is being fetched joins in; a fetch that nobody waits for any more
//! ends, and what came so far stays with the program for the next time.

use crate::catalog::{Catalog, PullProgress};
use rawrz_engine::Cancel;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::watch;

/// How a fetch is, as the last that was told of it.
#[derive(Clone, Debug)]
pub(crate) enum PullState {
    Begun,
    Told(PullProgress),
    /// The end, with one line that says why it failed.
    Ended(Result<(), String>),
}

/// A fetch that somebody waits for. The last one to drop it ends it.
pub(crate) struct Pull {
    state: watch::Receiver<PullState>,
    cancel: Cancel,
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Pull {
    /// What is told from now on, and what was told last.
    pub(crate) fn follow(&self) -> watch::Receiver<PullState> {
        let mut state = self.state.clone();
        state.mark_changed();
        state
    }
}

/// The fetches under way, by the names of their models.
#[derive(Clone, Default)]
pub(crate) struct Pulls(Arc<Mutex<HashMap<String, Weak<Pull>>>>);

impl Pulls {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<Pull>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fetch of the model `name`: the one under way, or a new one.
    pub(crate) fn join(&self, name: String, catalog: &Arc<dyn Catalog>) -> Arc<Pull> {
        let mut under_way = self.lock();
        if let Some(pull) = under_way.get(&name).and_then(Weak::upgrade) {
            return pull;
        }
        let (sender, state) = watch::channel(PullState::Begun);
        let cancel = Cancel::default();
        let pull = Arc::new(Pull { state, cancel: cancel.clone() });
        under_way.insert(name.clone(), Arc::downgrade(&pull));
        let (pulls, catalog) = (self.clone(), Arc::clone(catalog));
        tokio::task::spawn_blocking(move || {
            let _ended = Ended { pulls, name: name.clone(), cancel: cancel.clone(), sender: &sender };
            let tell = |told| drop(sender.send_replace(PullState::Told(told)));
            let result = catalog.pull(&name, &cancel, &tell);
            sender.send_replace(PullState::Ended(result));
        });
        pull
    }
}

/// Takes a fetch off the list when it ends, in whatever way.
struct Ended<'a> {
    pulls: Pulls,
    name: String,
    cancel: Cancel,
    sender: &'a watch::Sender<PullState>,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut under_way = self.pulls.lock();
        // After the last one went, another fetch of the same may have begun, which stays.
        let is_ours = |pull: &Weak<Pull>| !self.cancel.is_cancelled() || pull.strong_count() == 0;
        if under_way.get(&self.name).is_some_and(is_ours) {
            under_way.remove(&self.name);
        }
        drop(under_way);
        self.sender.send_if_modified(|state| {
            let has_ended = matches!(state, PullState::Ended(_));
            if !has_ended {
                *state = PullState::Ended(Err("the fetch failed unexpectedly".to_owned()));
            }
            !has_ended
        });
    }
}
