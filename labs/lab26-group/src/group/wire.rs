//! The datagrams of a group, as characters that tcpdump shows. Fields are separated by one space, lists by commas.
//!
//! ```text
//! G26 item FROM NUMBER CLOCK TEXT                 a text; CLOCK: what its sender had delivered of the others
//! G26 alive FROM NAME JOINED EPOCH PROMISED LENGTH VIEW DEAD HIGHS   a heartbeat; HIGHS: the last text held of each
//! G26 ask FROM TO WANTED                          negative acknowledgement: TO, please send these again
//! G26 order EPOCH FIRST ENTRIES                   the sequencer: these texts have the places from FIRST on
//! G26 askorder FROM EPOCH FIRST                   sequencer, please say the places from FIRST on again
//! G26 propose EPOCH LENGTH VIEW                   a new view; its second number is the sequencer that proposes it
//! G26 state FROM EPOCH JOINED LENGTH FIRST TAIL   agreed; so long is my log, and this is what yours lacks
//! G26 welcome TO EPOCH BASE VIEW ORDERED          a newcomer's log begins behind these
//! G26 leave FROM                                  goodbye
//! G26 find TOKEN                                  a client: who is there?
//! G26 here TOKEN NAME                             I am
//! G26 post NUMBER TEXT                            the client to the member it has taken: say this for me
//! G26 posted NUMBER NAME                          said
//! ```

use std::{fmt::Display, rc::Rc, str::FromStr};

use super::{Id, ItemId};

/// The longest text in bytes. With its head it fits one Ethernet frame.
pub const TEXT_LIMIT: usize = 1000;
/// No list in a datagram is longer.
const LIST_LIMIT: usize = 1000;

/// A view's number, and the sequencer that proposed it. The higher one counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u32, pub Id);

/// A text as it was said.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub from: Id,
    pub number: u32,
    /// What its sender had delivered of the others: the vector clock.
    pub clock: Vec<ItemId>,
    pub text: String,
}

/// A heartbeat.
#[derive(Clone, Debug, PartialEq)]
pub struct Alive {
    pub from: Id,
    pub name: String,
    /// It belongs to a view; without order total there is none, and it says yes.
    pub joined: bool,
    pub epoch: Epoch,
    pub promised: Epoch,
    /// How many texts the log has.
    pub length: u32,
    pub view: Vec<Id>,
    /// Whom it has declared dead.
    pub dead: Vec<Id>,
    /// The last text held of each sender.
    pub highs: Vec<ItemId>,
}

/// One datagram.
#[derive(Clone, Debug, PartialEq)]
pub enum Datagram {
    Item(Rc<Item>),
    Alive(Alive),
    Ask { from: Id, to: Id, wanted: Vec<ItemId> },
    Order { epoch: Epoch, first: u32, entries: Vec<ItemId> },
    AskOrder { from: Id, epoch: Epoch, first: u32 },
    Propose { epoch: Epoch, length: u32, view: Vec<Id> },
    State { from: Id, epoch: Epoch, joined: bool, length: u32, first: u32, tail: Vec<ItemId> },
    Welcome { to: Id, epoch: Epoch, base: u32, view: Vec<Id>, ordered: Vec<ItemId> },
    Leave { from: Id },
    Find { token: u32 },
    Here { token: u32, name: String },
    Post { number: u32, text: String },
    Posted { number: u32, name: String },
}

impl Datagram {
    /// As it goes over the network.
    pub fn bytes(&self) -> Vec<u8> {
        let text = match self {
            Datagram::Item(item) => {
                let Item { from, number, clock, text } = &**item;
                format!("item {from} {number} {} {text}", pairs(clock))
            }
            Datagram::Alive(Alive { from, name, joined, epoch, promised, length, view, dead, highs }) => format!(
                "alive {from} {name} {} {} {} {length} {} {} {}",
                u8::from(*joined),
                dotted(epoch),
                dotted(promised),
                list(view),
                list(dead),
                pairs(highs)
            ),
            Datagram::Ask { from, to, wanted } => format!("ask {from} {to} {}", pairs(wanted)),
            Datagram::Order { epoch, first, entries } => format!("order {} {first} {}", dotted(epoch), pairs(entries)),
            Datagram::AskOrder { from, epoch, first } => format!("askorder {from} {} {first}", dotted(epoch)),
            Datagram::Propose { epoch, length, view } => format!("propose {} {length} {}", dotted(epoch), list(view)),
            Datagram::State { from, epoch, joined, length, first, tail } => {
                format!("state {from} {} {} {length} {first} {}", dotted(epoch), u8::from(*joined), pairs(tail))
            }
            Datagram::Welcome { to, epoch, base, view, ordered } => {
                format!("welcome {to} {} {base} {} {}", dotted(epoch), list(view), pairs(ordered))
            }
            Datagram::Leave { from } => format!("leave {from}"),
            Datagram::Find { token } => format!("find {token}"),
            Datagram::Here { token, name } => format!("here {token} {name}"),
            Datagram::Post { number, text } => format!("post {number} {text}"),
            Datagram::Posted { number, name } => format!("posted {number} {name}"),
        };
        format!("G26 {text}").into_bytes()
    }

    /// What came; `None` for anything that is no datagram of a group.
    pub fn read(bytes: &[u8]) -> Option<Datagram> {
        let (kind, rest) = str::from_utf8(bytes).ok()?.strip_prefix("G26 ")?.split_once(' ')?;
        let mut fields = Fields(rest);
        let datagram = match kind {
            "item" => {
                let (from, number, clock) = (fields.number()?, fields.number()?, fields.pairs()?);
                (number > 0).then_some(())?; // texts are counted from 1
                Datagram::Item(Rc::new(Item { from, number, clock, text: fields.text()? }))
            }
            "alive" => Datagram::Alive(Alive {
                from: fields.number()?,
                name: fields.name()?,
                joined: fields.flag()?,
                epoch: fields.epoch()?,
                promised: fields.epoch()?,
                length: fields.number()?,
                view: fields.list()?,
                dead: fields.list()?,
                highs: fields.pairs()?,
            }),
            "ask" => Datagram::Ask { from: fields.number()?, to: fields.number()?, wanted: fields.pairs()? },
            "order" => Datagram::Order { epoch: fields.epoch()?, first: fields.number()?, entries: fields.pairs()? },
            "askorder" => {
                Datagram::AskOrder { from: fields.number()?, epoch: fields.epoch()?, first: fields.number()? }
            }
            "propose" => Datagram::Propose { epoch: fields.epoch()?, length: fields.number()?, view: fields.list()? },
            "state" => Datagram::State {
                from: fields.number()?,
                epoch: fields.epoch()?,
                joined: fields.flag()?,
                length: fields.number()?,
                first: fields.number()?,
                tail: fields.pairs()?,
            },
            "welcome" => Datagram::Welcome {
                to: fields.number()?,
                epoch: fields.epoch()?,
                base: fields.number()?,
                view: fields.list()?,
                ordered: fields.pairs()?,
            },
            "leave" => Datagram::Leave { from: fields.number()? },
            "find" => Datagram::Find { token: fields.number()? },
            "here" => Datagram::Here { token: fields.number()?, name: fields.name()? },
            "post" => Datagram::Post { number: fields.number()?, text: fields.text()? },
            "posted" => Datagram::Posted { number: fields.number()?, name: fields.name()? },
            _ => return None,
        };
        fields.0.is_empty().then_some(datagram)
    }
}

/// Whether people can tell each other this name: 1 to 20 letters, digits, - and _.
pub fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=20).contains(&text.len()) && text.bytes().all(fits)
}

fn dotted(Epoch(number, leader): &Epoch) -> String {
    format!("{number}.{leader}")
}

fn list<T: Display>(items: &[T]) -> String {
    let words: Vec<String> = items.iter().map(T::to_string).collect();
    if words.is_empty() { "-".into() } else { words.join(",") }
}

fn pairs(items: &[ItemId]) -> String {
    list(&items.iter().map(|(id, number)| format!("{id}:{number}")).collect::<Vec<_>>())
}

/// What is left of a datagram.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn next(&mut self) -> &'a str {
        let (field, rest) = self.0.split_once(' ').unwrap_or((self.0, ""));
        self.0 = rest;
        field
    }

    fn number(&mut self) -> Option<u32> {
        number(self.next())
    }

    fn flag(&mut self) -> Option<bool> {
        number(self.next()).filter(|flag| *flag <= 1).map(|flag| flag == 1)
    }

    fn name(&mut self) -> Option<String> {
        Some(self.next()).filter(|name| is_name(name)).map(Into::into)
    }

    fn epoch(&mut self) -> Option<Epoch> {
        let (first, second) = self.next().split_once('.')?;
        Some(Epoch(number(first)?, number(second)?))
    }

    fn list(&mut self) -> Option<Vec<u32>> {
        listed(self.next(), number)
    }

    fn pairs(&mut self) -> Option<Vec<ItemId>> {
        listed(self.next(), |pair| {
            let (first, second) = pair.split_once(':')?;
            Some((number(first)?, number(second)?))
        })
    }

    /// The rest: a text has spaces.
    fn text(&mut self) -> Option<String> {
        let text = std::mem::take(&mut self.0);
        (text.len() <= TEXT_LIMIT).then(|| text.into())
    }
}

/// A number as `to_string` writes it: no sign, no zero in front.
fn number(text: &str) -> Option<u32> {
    u32::from_str(text).ok().filter(|number| number.to_string() == text)
}

fn listed<T>(field: &str, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    if field == "-" {
        return Some(Vec::new());
    }
    let items: Option<Vec<T>> = field.split(',').map(read).collect();
    items.filter(|items| items.len() <= LIST_LIMIT)
}

#[cfg(test)]
pub mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Small ones are those of members; the largest are at the end of what can be counted.
    fn number() -> impl Strategy<Value = u32> {
        prop_oneof![0..6u32, u32::MAX - 2..=u32::MAX, any::<u32>()]
    }

    fn ids() -> impl Strategy<Value = Vec<u32>> {
        vec(number(), 0..5)
    }

    fn items() -> impl Strategy<Value = Vec<ItemId>> {
        vec((number(), number()), 0..5)
    }

    fn numbers<const N: usize>() -> impl Strategy<Value = [u32; N]> {
        vec(number(), N).prop_map(|numbers| numbers.try_into().unwrap_or([0; N]))
    }

    /// Datagrams of all kinds, with numbers of all sizes.
    pub fn datagrams() -> impl Strategy<Value = Datagram> {
        let name = "[a-zA-Z0-9_-]{1,20}";
        prop_oneof![
            (number(), number().prop_map(|number| number.max(1)), items(), "\\PC{0,100}")
                .prop_map(|(from, number, clock, text)| Datagram::Item(Rc::new(Item { from, number, clock, text }))),
            (numbers::<6>(), any::<bool>(), name, ids(), ids(), items()).prop_map(
                |([from, a, b, c, d, length], joined, name, view, dead, highs)| Datagram::Alive(Alive {
                    from,
                    name,
                    joined,
                    epoch: Epoch(a, b),
                    promised: Epoch(c, d),
                    length,
                    view,
                    dead,
                    highs
                })
            ),
            (numbers::<2>(), items()).prop_map(|([from, to], wanted)| Datagram::Ask { from, to, wanted }),
            (numbers::<3>(), items()).prop_map(|([a, b, first], entries)| Datagram::Order {
                epoch: Epoch(a, b),
                first,
                entries
            }),
            numbers::<4>().prop_map(|[from, a, b, first]| Datagram::AskOrder { from, epoch: Epoch(a, b), first }),
            (numbers::<3>(), ids()).prop_map(|([a, b, length], view)| Datagram::Propose {
                epoch: Epoch(a, b),
                length,
                view
            }),
            (numbers::<5>(), any::<bool>(), items()).prop_map(|([from, a, b, length, first], joined, tail)| {
                Datagram::State { from, epoch: Epoch(a, b), joined, length, first, tail }
            }),
            (numbers::<4>(), ids(), items()).prop_map(|([to, a, b, base], view, ordered)| Datagram::Welcome {
                to,
                epoch: Epoch(a, b),
                base,
                view,
                ordered
            }),
            any::<u32>().prop_map(|from| Datagram::Leave { from }),
            any::<u32>().prop_map(|token| Datagram::Find { token }),
            (any::<u32>(), name).prop_map(|(token, name)| Datagram::Here { token, name }),
            (any::<u32>(), "\\PC{0,100}").prop_map(|(number, text)| Datagram::Post { number, text }),
            (any::<u32>(), name).prop_map(|(number, name)| Datagram::Posted { number, name }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_written_is_read(datagram in datagrams()) {
            prop_assert_eq!(Datagram::read(&datagram.bytes()), Some(datagram));
        }

        #[test]
        fn any_bytes_are_read_or_refused_and_what_is_read_was_written_so(
            bytes in prop_oneof![vec(any::<u8>(), 0..60), "G26 [a-z]{3,8}( [0-9:,.-]{0,6}){0,9}".prop_map(String::into_bytes)],
        ) {
            if let Some(datagram) = Datagram::read(&bytes) {
                prop_assert_eq!(datagram.bytes(), bytes);
            }
        }
    }
}
