//! Requests that wait: bounded, and served client by client in turn.

use super::{Request, SubmitError};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    max_len: usize,
}

#[derive(Default)]
struct State {
    /// Clients that wait, the next one first, each with its requests in the order they came. None is empty.
    clients: VecDeque<(u64, VecDeque<Request>)>,
    len: usize,
    is_closed: bool,
}

/// What the queue has.
pub(super) enum Next {
    Request(Request),
    /// Nothing now.
    Empty,
    /// Nothing, and never again.
    Closed,
}

impl Queue {
    pub(super) fn new(max_len: usize) -> Queue {
        Queue { state: Mutex::default(), changed: Condvar::new(), max_len }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, request: Request) -> Result<(), SubmitError> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(SubmitError::Closed);
        }
        if state.len >= self.max_len {
            // Those whose client went away hold no place.
            state.clients.iter_mut().for_each(|(_, requests)| requests.retain(|r| !r.cancel.is_cancelled()));
            state.clients.retain(|(_, requests)| !requests.is_empty());
            state.len = state.clients.iter().map(|(_, requests)| requests.len()).sum();
        }
        if state.len >= self.max_len {
            return Err(SubmitError::QueueFull { n_queued: state.len });
        }
        state.len += 1;
        match state.clients.iter_mut().find(|(client, _)| *client == request.client) {
            Some((_, requests)) => requests.push_back(request),
            None => state.clients.push_back((request.client, VecDeque::from([request]))),
        }
        self.changed.notify_one();
        Ok(())
    }

    /// The next client's next request; waits for one when `wait`.
    pub(super) fn pop(&self, wait: bool) -> Next {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return Next::Closed;
            }
            if let Some((client, mut requests)) = state.clients.pop_front() {
                let request = requests.pop_front();
                if !requests.is_empty() {
                    state.clients.push_back((client, requests));
                }
                if let Some(request) = request {
                    state.len -= 1;
                    return Next::Request(request);
                }
            } else if wait {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                return Next::Empty;
            }
        }
    }

    /// Takes no more requests, and drops those that wait.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        let waiting = std::mem::take(&mut state.clients);
        state.len = 0;
        drop(state);
        drop(waiting);
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len
    }
}

#[cfg(test)]
mod tests {
    use super::super::Work;
    use super::*;
    use crate::cancel::Cancel;

    fn request(client: u64, id: u32, cancel: &Cancel) -> Request {
        let on_update = Box::new(|_| true);
        Request { prompt: vec![id], work: Work::Embed, client, cancel: cancel.clone(), on_update }
    }

    fn next(queue: &Queue) -> Option<u32> {
        match queue.pop(false) {
            Next::Request(request) => Some(request.prompt[0]),
            Next::Empty | Next::Closed => None,
        }
    }

    #[test]
    fn clients_take_turns() {
        let (queue, go_on) = (Queue::new(9), Cancel::default());
        for (client, id) in [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30), (2, 21)] {
            queue.push(request(client, id, &go_on)).unwrap();
        }
        let order: Vec<u32> = std::iter::from_fn(|| next(&queue)).collect();
        assert_eq!(order, [10, 20, 30, 11, 21, 12]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn a_full_queue_refuses_unless_somebody_went_away() {
        let (queue, go_on, gone) = (Queue::new(2), Cancel::default(), Cancel::default());
        queue.push(request(1, 1, &go_on)).unwrap();
        queue.push(request(2, 2, &gone)).unwrap();
        let refused = queue.push(request(3, 3, &go_on));
        assert!(matches!(refused, Err(SubmitError::QueueFull { n_queued: 2 })));
        gone.cancel();
        queue.push(request(3, 3, &go_on)).unwrap();
        assert_eq!((next(&queue), next(&queue), next(&queue)), (Some(1), Some(3), None));
        queue.push(request(4, 4, &go_on)).unwrap();
        queue.close();
        assert!(matches!(queue.push(request(1, 1, &go_on)), Err(SubmitError::Closed)));
        assert!(matches!(queue.pop(true), Next::Closed));
    }
}
