//! Queries under way: whose they are and since when, so that a caller can be told in time that there will be no answer. Apart
//! from the queries themselves, which nobody can hurry. Allocates nothing once it has grown.

use crate::base::Tick;

pub(super) struct Asked<R> {
    /// None: told already.
    places: Vec<(Tick, Option<R>)>,
    free: Vec<usize>,
}

impl<R> Default for Asked<R> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<R> Asked<R> {
    /// Its place until `end`.
    pub(super) fn put(&mut self, since: Tick, reply: R) -> usize {
        match self.free.pop() {
            Some(place) => {
                self.places[place] = (since, Some(reply));
                place
            }
            None => {
                self.places.push((since, Some(reply)));
                self.places.len() - 1
            }
        }
    }

    /// The query has ended: who waits for its answer, if anybody still does.
    pub(super) fn end(&mut self, place: usize) -> Option<R> {
        self.free.push(place);
        self.places[place].1.take()
    }

    /// Takes those who wait since a time that is `too_long` ago.
    pub(super) fn expire(&mut self, too_long: impl Fn(Tick) -> bool) -> Vec<(Tick, R)> {
        let late = self.places.iter_mut().filter(|(since, reply)| reply.is_some() && too_long(*since));
        late.filter_map(|(since, reply)| reply.take().map(|reply| (*since, reply))).collect()
    }
}
