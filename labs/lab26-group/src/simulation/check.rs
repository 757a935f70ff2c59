//! What a group promises, and whether a run kept it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Life, Outcome, Plan};
use crate::group::{Id, ItemId, Order};

/// What a group promises: the reason, if a run broke the promise.
///
/// # Errors
/// What was promised, and who broke it.
pub fn check(plan: &Plan, outcome: &Outcome) -> Result<(), String> {
    let order = plan.settings.order;
    if outcome.rest.is_none() {
        return Err("rest: a minute after the last crash something is still missing".into());
    }
    for life in &outcome.lives {
        let mut seen = HashSet::new();
        let mut last: BTreeMap<Id, u32> = BTreeMap::new();
        for (id, number) in &life.log {
            if !seen.insert((*id, *number)) {
                return Err(format!("once: member {} has text {id}:{number} twice", life.id));
            }
            let before = last.insert(*id, *number);
            if order != Order::None && before.is_some_and(|before| before + 1 != *number) {
                return Err(format!("fifo: member {} has text {id}:{number} at the wrong place", life.id));
            }
        }
    }
    let at_end = || outcome.lives.iter().filter(|life| life.at_end);
    let whole: Vec<&Life> = at_end().filter(|life| life.whole).collect();
    if let Some(first) = whole.first() {
        let set = |life: &Life| life.log.iter().copied().collect::<BTreeSet<ItemId>>();
        for other in &whole {
            if set(first) != set(other) {
                return Err(format!("agreement: members {} and {} have different texts", first.id, other.id));
            }
        }
    }
    for life in &whole {
        let own = life.log.iter().filter(|(id, _)| *id == life.id).count();
        if own != life.said.len() {
            return Err(format!("validity: member {} said {} texts, {own} are in its log", life.id, life.said.len()));
        }
        if matches!(order, Order::Causal | Order::Total) {
            check_causes(life, &outcome.lives)?;
        }
    }
    if order == Order::Total {
        let lives: Vec<&Life> = at_end().collect();
        if let Some(longest) = lives.iter().min_by_key(|life| life.start) {
            for life in &lives {
                if longest.log.get((life.start - longest.start) as usize..) != Some(&life.log[..]) {
                    return Err(format!("total: members {} and {} have different orders", longest.id, life.id));
                }
            }
        }
    }
    Ok(())
}

/// Whatever a sender had delivered before it said a text comes before this text.
fn check_causes(life: &Life, lives: &[Life]) -> Result<(), String> {
    let said: BTreeMap<Id, &Vec<Vec<ItemId>>> = lives.iter().map(|life| (life.id, &life.said)).collect();
    let mut delivered: BTreeMap<Id, u32> = BTreeMap::new();
    for (id, number) in &life.log {
        let causes = said.get(id).and_then(|said| said.get(*number as usize - 1));
        for (cause, count) in causes.into_iter().flatten() {
            if delivered.get(cause).copied().unwrap_or(0) < *count {
                return Err(format!("causal: member {} has {id}:{number} before {cause}:{count}, its cause", life.id));
            }
        }
        delivered.insert(*id, *number);
    }
    Ok(())
}
