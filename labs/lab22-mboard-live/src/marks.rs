//! Up to which message each client has all: by name, so that the mark outlives the connection.

use std::collections::{BTreeSet, HashMap};

/// So many names are remembered. One more, and a name that nobody uses at the moment is forgotten.
const NAMES: usize = 10_000;

/// What is known of one name.
#[derive(Debug, Default)]
struct Mark {
    /// The client has confirmed all up to this message.
    up_to: u64,
    /// Newer messages that the client has published itself; it is not told of them.
    own: BTreeSet<u64>,
}

/// The marks of all clients.
#[derive(Debug, Default)]
pub struct Marks(HashMap<String, Mark>);

impl Marks {
    /// A client is here, and says that it has all up to `mark`. Returns where to go on.
    pub fn enter(&mut self, name: &str, mark: u64, is_here: impl Fn(&str) -> bool) -> u64 {
        if self.0.len() >= NAMES && !self.0.contains_key(name) {
            let away = self.0.keys().find(|name| !is_here(name)).cloned();
            away.map(|away| self.0.remove(&away));
        }
        self.0.entry(name.into()).or_default();
        self.confirm(name, mark);
        self.0[name].up_to
    }

    /// The client has shown all up to `id`.
    pub fn confirm(&mut self, name: &str, id: u64) {
        let Some(mark) = self.0.get_mut(name) else { return };
        mark.up_to = mark.up_to.max(id);
        mark.own.retain(|own| *own > mark.up_to);
    }

    /// The client has published a message.
    pub fn published(&mut self, name: &str, id: u64) {
        if let Some(mark) = self.0.get_mut(name) {
            mark.own.insert(id);
        }
    }

    /// Whether the client has published this message itself.
    pub fn is_own(&self, name: &str, id: u64) -> bool {
        self.0.get(name).is_some_and(|mark| mark.own.contains(&id))
    }

    /// The client's own message `id` is passed over; `told` was the last one before. If all up to that one is confirmed,
    /// the mark passes, too.
    pub fn pass(&mut self, name: &str, told: u64, id: u64) {
        if self.0.get(name).is_some_and(|mark| mark.up_to >= told) {
            self.confirm(name, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn a_mark_never_goes_back_and_outlives_the_connection() {
        let mut marks = Marks::default();
        assert_eq!(marks.enter("ann", 0, |_| false), 0);
        marks.confirm("ann", 7);
        marks.confirm("ann", 5);
        assert_eq!(marks.enter("ann", 0, |_| false), 7);
        assert_eq!(marks.enter("ann", 9, |_| false), 9);
        assert_eq!(marks.enter("bob", 0, |_| false), 0);
    }

    #[test]
    fn a_name_that_nobody_uses_is_forgotten_first() {
        let mut marks = Marks::default();
        for number in 0..=NAMES {
            marks.enter(&number.to_string(), 1, |name| name != "77");
        }
        assert_eq!(marks.0.len(), NAMES);
        assert_eq!(marks.enter("77", 0, |name| name != "78"), 0);
        assert_eq!(marks.enter("79", 0, |_| true), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Messages 1, 2, ..., each by somebody else (false) or by ann; after some of them she confirms, or comes back.
        #[test]
        fn each_message_of_others_is_told_once_if_it_is_confirmed(steps in vec((any::<bool>(), 0..3_u8), 0..40)) {
            let mut marks = Marks::default();
            let (mut told, mut shown, mut expected) = (marks.enter("ann", 0, |_| true), Vec::new(), Vec::new());
            for (id, (own, then)) in (1..).zip(steps) {
                if own {
                    marks.published("ann", id);
                } else {
                    expected.push(id);
                }
                for id in told + 1..=id {
                    if marks.is_own("ann", id) {
                        marks.pass("ann", told, id);
                    } else {
                        shown.push(id);
                    }
                    told = id;
                }
                match then {
                    0 => {}
                    1 => marks.confirm("ann", told),
                    _ => {
                        marks.confirm("ann", told);
                        told = marks.enter("ann", 0, |_| false);
                        prop_assert_eq!(told, id);
                    }
                }
            }
            prop_assert_eq!(shown, expected);
        }
    }
}
