//! Which alternatives of choices stay in memory: the order of eviction, apart from the bytes, so that recorded
//! choices can be replayed against it.

use std::collections::BTreeSet;

/// The order in which alternatives are evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// The one that was used longest ago.
    #[default]
    LeastRecent,
    /// The one that was used last. What came first stays for good, so that a cache that is smaller than what one
    /// token takes still hits, where the order by age never does.
    MostRecent,
    /// The one used least often, where uses long ago count less and less: a use lifts an item above the age of
    /// the last eviction by the number of all its uses (perfect LFU with dynamic aging).
    LeastFrequent,
}

/// The items that may be evicted, and in which order.
#[derive(Debug)]
pub struct EvictionOrder {
    eviction: Eviction,
    /// Evicted from the first on.
    order: BTreeSet<(u64, usize)>,
    /// Key in `order` of each item that is in it.
    keys: Vec<Option<u64>>,
    uses: Vec<u64>,
    clock: u64,
    age: u64,
}

impl EvictionOrder {
    /// For items `0..n_items`, none of which may be evicted yet.
    pub fn new(eviction: Eviction, n_items: usize) -> EvictionOrder {
        let (keys, uses) = (vec![None; n_items], vec![0; n_items]);
        EvictionOrder { eviction, order: BTreeSet::new(), keys, uses, clock: 0, age: 0 }
    }

    /// `item` was used and may be evicted from now on.
    pub fn used(&mut self, item: usize) {
        self.clock += 1;
        self.uses[item] += 1;
        let key = match self.eviction {
            Eviction::LeastRecent => self.clock,
            Eviction::MostRecent => u64::MAX - self.clock,
            Eviction::LeastFrequent => self.age + self.uses[item],
        };
        self.keep(item);
        self.keys[item] = Some(key);
        self.order.insert((key, item));
    }

    /// `item` may not be evicted until it is [used](EvictionOrder::used) again.
    pub fn keep(&mut self, item: usize) {
        if let Some(key) = self.keys[item].take() {
            self.order.remove(&(key, item));
        }
    }

    /// Takes out the item to be evicted next; `None` when none may be.
    pub fn evict(&mut self) -> Option<usize> {
        let (key, item) = self.order.pop_first()?;
        self.keys[item] = None;
        self.age = key;
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hits of a cache of `capacity` items.
    fn replay(eviction: Eviction, capacity: usize, n_items: usize, uses: &[usize]) -> usize {
        let mut order = EvictionOrder::new(eviction, n_items);
        let (mut resident, mut n_resident, mut hits) = (vec![false; n_items], 0, 0);
        for item in uses {
            if resident[*item] {
                hits += 1;
            } else {
                if n_resident == capacity {
                    resident[order.evict().unwrap()] = false;
                    n_resident -= 1;
                }
                resident[*item] = true;
                n_resident += 1;
            }
            order.used(*item);
        }
        hits
    }

    #[test]
    fn a_scan_longer_than_the_cache_hits_only_where_the_first_stay() {
        let scan: Vec<usize> = (0..10).cycle().take(100).collect();
        assert_eq!(replay(Eviction::LeastRecent, 9, 10, &scan), 0);
        assert!(replay(Eviction::MostRecent, 9, 10, &scan) >= 75);
    }

    #[test]
    fn what_is_used_often_outlives_a_scan() {
        // Items 0 to 3 between every few of a long scan that never comes back.
        let uses: Vec<usize> = (0..400).map(|i| if i % 2 == 0 { i / 2 % 4 } else { 4 + i / 2 }).collect();
        let frequent = replay(Eviction::LeastFrequent, 6, 204, &uses);
        assert!(frequent > replay(Eviction::LeastRecent, 6, 204, &uses), "{frequent}");
        assert!(frequent >= 150, "{frequent}");
    }

    #[test]
    fn kept_items_are_not_evicted() {
        let mut order = EvictionOrder::new(Eviction::LeastRecent, 3);
        (0..3).for_each(|item| order.used(item));
        order.keep(0);
        assert_eq!((order.evict(), order.evict(), order.evict()), (Some(1), Some(2), None));
        order.used(0);
        assert_eq!(order.evict(), Some(0));
    }
}
