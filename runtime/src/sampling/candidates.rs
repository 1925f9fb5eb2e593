//! The tokens still in the running, and the stages that thin them out.
//!
//! Candidates are either in the order of their ids or in rank order (falling logit, then rising id). Both orders
//! are total, so every stage and every sum has one result. Logits here are finite.

use std::cmp::Ordering;

use super::mask::TokenMask;
use super::params::SamplingParams;
use crate::tokenizer::TokenId;

/// Candidates that are looked at first when a filter needs only the best ones.
const FIRST_PREFIX: usize = 256;

/// Logits that are compared together first, when most of them are too small.
const CHUNK: usize = 64;

/// A token and its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) logit: f32,
    pub(super) id: TokenId,
}

impl Candidate {
    /// Rank order: the likelier first, then the lower id.
    fn rank(&self, other: &Self) -> Ordering {
        other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal).then(self.id.cmp(&other.id))
    }

    fn beats(&self, other: &Self) -> bool {
        self.rank(other) == Ordering::Less
    }
}

/// The tokens still in the running.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
    ranked: bool,
}

impl Candidates {
    /// Starts over, in id order, from tokens given in id order. Logits of −∞ take no part, nor do tokens outside `mask`.
    pub(super) fn fill(&mut self, logits: &[f32], mask: Option<&TokenMask>) {
        self.list.clear();
        self.list.reserve(logits.len());
        let all = (0..).zip(logits).map(|(id, &logit)| Candidate { logit, id });
        let possible = all.filter(|candidate| candidate.logit > f32::NEG_INFINITY);
        match mask {
            None => self.list.extend(possible),
            Some(mask) => self.list.extend(possible.filter(|candidate| mask.allows(candidate.id))),
        }
        self.ranked = false;
    }

    /// What [`Self::fill`] and then [`Self::top_k`] leave, without a list of all tokens in between.
    pub(super) fn fill_best(&mut self, logits: &[f32], mask: Option<&TokenMask>, k: usize) {
        if k >= logits.len() || k == 0 {
            self.fill(logits, mask);
            return;
        }
        let room = k.saturating_mul(2).max(FIRST_PREFIX);
        self.list.clear();
        self.ranked = false;
        // The k-th best so far, once there have been more; what comes later has a higher id and must exceed it.
        let mut least = f32::NEG_INFINITY;
        for (first, chunk) in (0..).step_by(CHUNK).zip(logits.chunks(CHUNK)) {
            // Without a way out of the middle, which vectors allow, as a maximum would not: its operands are ordered.
            if !chunk.iter().fold(false, |found, &logit| found | (logit > least)) {
                continue;
            }
            for (id, &logit) in (first..).zip(chunk) {
                if logit > least && mask.is_none_or(|mask| mask.allows(id)) {
                    self.list.push(Candidate { logit, id });
                    if self.list.len() == room {
                        self.list.select_nth_unstable_by(k - 1, Candidate::rank);
                        self.list.truncate(k);
                        least = self.list[k - 1].logit;
                    }
                }
            }
        }
        if least == f32::NEG_INFINITY {
            return self.top_k(k);
        }
        if self.list.len() > k {
            self.list.select_nth_unstable_by(k - 1, Candidate::rank);
            self.list.truncate(k);
        }
        self.list.sort_unstable_by(Candidate::rank);
        self.ranked = true;
    }

    /// Adds to the logits of tokens, before any other stage; −∞ removes a token.
    pub(super) fn add_biases(&mut self, biases: &[(TokenId, f32)]) {
        let mut removed = false;
        for &(id, bias) in biases {
            if let Ok(at) = self.list.binary_search_by_key(&id, |candidate| candidate.id) {
                let logit = &mut self.list[at].logit;
                *logit = if bias == f32::NEG_INFINITY {
                    removed = true;
                    bias
                } else {
                    (*logit + bias).clamp(f32::MIN, f32::MAX)
                };
            }
        }
        if removed {
            self.list.retain(|candidate| candidate.logit > f32::NEG_INFINITY);
        }
    }

    pub(super) fn list(&self) -> &[Candidate] {
        &self.list
    }

    /// Penalises the tokens of `counts` (rising ids, each with its number of occurrences).
    pub(super) fn penalise(&mut self, counts: &[(TokenId, u32)], params: &SamplingParams) {
        for &(id, count) in counts {
            let at = if self.ranked {
                self.list.iter().position(|candidate| candidate.id == id)
            } else {
                self.list.binary_search_by_key(&id, |candidate| candidate.id).ok()
            };
            let Some(candidate) = at.map(|at| &mut self.list[at]) else { continue };
            let mut logit = candidate.logit;
            if logit > 0.0 {
                logit /= params.repeat_penalty;
            } else {
                logit *= params.repeat_penalty;
            }
            logit -= count as f32 * params.frequency_penalty + params.presence_penalty;
            candidate.logit = logit.clamp(f32::MIN, f32::MAX);
        }
        if self.ranked {
            self.list.sort_unstable_by(Candidate::rank);
        }
    }

    /// Keeps the `k` best, in rank order.
    pub(super) fn top_k(&mut self, k: usize) {
        if k >= self.list.len() || k == 0 {
            return;
        }
        if !self.ranked {
            self.gather_best(k);
            self.list.truncate(k);
            self.list.sort_unstable_by(Candidate::rank);
            self.ranked = true;
        }
        self.list.truncate(k);
    }

    /// Moves the `k` best to the front, in no order, in one pass: candidates that do not beat the k-th best of
    /// those seen so far are dropped at once. What lies beyond `k` afterwards is rubbish.
    fn gather_best(&mut self, k: usize) {
        let room = (2 * k).max(FIRST_PREFIX);
        let mut kept = 0;
        let mut least: Option<Candidate> = None;
        for at in 0..self.list.len() {
            let candidate = self.list[at];
            if least.is_some_and(|least| !candidate.beats(&least)) {
                continue;
            }
            self.list[kept] = candidate;
            kept += 1;
            if kept == room {
                self.list[..kept].select_nth_unstable_by(k - 1, Candidate::rank);
                least = Some(self.list[k - 1]);
                kept = k;
            }
        }
        if kept > k {
            self.list[..kept].select_nth_unstable_by(k - 1, Candidate::rank);
        }
    }

    /// Keeps the fewest best candidates whose probabilities sum to at least `p`, in rank order.
    pub(super) fn top_p(&mut self, p: f32) {
        let max = self.max();
        let total: f64 = self.list.iter().map(|candidate| weight(candidate.logit, max)).sum();
        let wanted = f64::from(p) * total;
        let mut sum = 0.0;
        let mut done = 0;
        let mut prefix = if self.ranked { self.list.len() } else { FIRST_PREFIX };
        while done < self.list.len() {
            let end = prefix.min(self.list.len());
            if !self.ranked {
                let rest = &mut self.list[done..];
                if end - done < rest.len() {
                    rest.select_nth_unstable_by(end - done - 1, Candidate::rank);
                }
                rest[..end - done].sort_unstable_by(Candidate::rank);
            }
            for at in done..end {
                sum += weight(self.list[at].logit, max);
                if sum >= wanted {
                    self.list.truncate(at + 1);
                    self.ranked = true;
                    return;
                }
            }
            done = end;
            prefix *= 8;
        }
        self.ranked = true;
    }

    /// Keeps the candidates whose surprise −ln p is nearest to the entropy, the fewest with probability `p` together, in
    /// rank order (Meister et al., arXiv 2202.00666). `distances` is memory to work in.
    pub(super) fn typical_p(&mut self, p: f32, distances: &mut Vec<(f64, Candidate)>) {
        let max = self.max();
        let total: f64 = self.list.iter().map(|candidate| weight(candidate.logit, max)).sum();
        if self.list.len() < 2 || total <= 0.0 {
            return;
        }
        let log_total = libm::log(total) + f64::from(max);
        let surprise = |candidate: &Candidate| log_total - f64::from(candidate.logit);
        let entropy: f64 = self
            .list
            .iter()
            .map(|candidate| weight(candidate.logit, max) / total * surprise(candidate))
            .filter(|part| part.is_finite())
            .sum();
        distances.clear();
        distances.extend(self.list.iter().map(|c| ((surprise(c) - entropy).abs(), *c)));
        distances.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.rank(&b.1)));
        let mut sum = 0.0;
        let kept = distances.iter().position(|(_, candidate)| {
            sum += weight(candidate.logit, max);
            sum >= f64::from(p) * total
        });
        distances.truncate(kept.map_or(distances.len(), |last| last + 1));
        self.list.clear();
        self.list.extend(distances.iter().map(|&(_, candidate)| candidate));
        self.list.sort_unstable_by(Candidate::rank);
        self.ranked = true;
    }

    /// Keeps the candidates, in rank order, whose surprise −log₂ p is at most `most` bits, and the best in any case.
    pub(super) fn bound_surprise(&mut self, most: f64) {
        let max = self.max();
        let total: f64 = self.list.iter().map(|candidate| weight(candidate.logit, max)).sum();
        let bits = |candidate: &Candidate| -libm::log2(weight(candidate.logit, max) / total);
        if !self.ranked {
            if let Some(best) = self.list.iter().copied().min_by(Candidate::rank) {
                self.list.retain(|candidate| candidate.id == best.id || bits(candidate) <= most);
            }
            self.list.sort_unstable_by(Candidate::rank);
            self.ranked = true;
        } else {
            let first_out = self.list.iter().skip(1).position(|candidate| bits(candidate) > most);
            self.list.truncate(first_out.map_or(self.list.len(), |at| at + 1));
        }
    }

    /// The surprise of a candidate among those that are left, in bits.
    pub(super) fn surprise(&self, id: TokenId) -> Option<f64> {
        let max = self.max();
        let total: f64 = self.list.iter().map(|candidate| weight(candidate.logit, max)).sum();
        let chosen = self.list.iter().find(|candidate| candidate.id == id)?;
        Some(-libm::log2(weight(chosen.logit, max) / total))
    }

    /// Keeps the candidates at least `p` times as likely as the best.
    pub(super) fn min_p(&mut self, p: f32) {
        let least = self.max() + libm::logf(p.min(1.0));
        self.list.retain(|candidate| candidate.logit >= least);
    }

    /// Divides the logits by `temperature`, or keeps only the best candidate if it is 0 or less.
    pub(super) fn temperature(&mut self, temperature: f32) {
        if temperature <= 0.0 {
            if let Some(best) = self.list.iter().copied().min_by(Candidate::rank) {
                self.list.clear();
                self.list.push(best);
            }
            return;
        }
        for candidate in &mut self.list {
            candidate.logit = (candidate.logit / temperature).clamp(f32::MIN, f32::MAX);
        }
    }

    /// The candidate at which the running sum of probabilities passes `u`, a number from 0 up to but not including 1.
    /// `None` if there are no candidates.
    pub(super) fn draw(&self, u: f64) -> Option<TokenId> {
        let max = self.max();
        let total: f64 = self.list.iter().map(|candidate| weight(candidate.logit, max)).sum();
        let target = u * total;
        let mut sum = 0.0;
        let mut last = None;
        for candidate in &self.list {
            let weight = weight(candidate.logit, max);
            if weight > 0.0 {
                last = Some(candidate.id);
                sum += weight;
                if sum > target {
                    break;
                }
            }
        }
        last
    }

    fn max(&self) -> f32 {
        if self.ranked {
            return self.list.first().map_or(f32::NEG_INFINITY, |best| best.logit);
        }
        self.list.iter().fold(f32::NEG_INFINITY, |max, candidate| max.max(candidate.logit))
    }
}

/// Probability up to a common factor.
fn weight(logit: f32, max: f32) -> f64 {
    libm::exp(f64::from(logit) - f64::from(max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn candidates(logits: &[f32]) -> Candidates {
        let mut candidates = Candidates::default();
        candidates.fill(logits, None);
        candidates
    }

    fn fully_sorted(logits: &[f32]) -> Vec<Candidate> {
        let mut all = candidates(logits).list;
        all.sort_by(Candidate::rank);
        all
    }

    /// Logits with many ties.
    fn logits() -> impl Strategy<Value = Vec<f32>> {
        vec(prop_oneof![-20.0f32..20.0, (-4i8..4).prop_map(f32::from), Just(f32::NEG_INFINITY)], 1..2000)
            .prop_filter("a finite logit", |logits| logits.iter().any(|logit| logit.is_finite()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn top_k_is_the_front_of_a_full_sort(logits in logits(), k in 1usize..400) {
            let mut kept = candidates(&logits);
            let all = kept.list.len();
            kept.top_k(k);
            if k < all {
                prop_assert_eq!(&kept.list, &fully_sorted(&logits)[..k]);
            } else {
                prop_assert_eq!(kept.list, candidates(&logits).list);
            }
        }

        #[test]
        fn the_best_are_found_without_a_list_of_all(
            logits in logits(), k in 0usize..400, chunked: bool, allowed in proptest::option::of(vec(any::<u32>(), 1..150)),
        ) {
            // Also where the greatest come in the middle of many.
            let logits = if chunked { [logits.clone(), vec![1.5; 900], logits].concat() } else { logits };
            let mask = allowed.map(|words| {
                let mut mask = TokenMask::none(logits.len());
                mask.copy_from_words(&words);
                mask
            });
            let mut of_all = Candidates::default();
            of_all.fill(&logits, mask.as_ref());
            of_all.top_k(k);
            let mut best = Candidates::default();
            best.fill_best(&logits, mask.as_ref(), k);
            prop_assert_eq!(&best.list, &of_all.list);
            prop_assert_eq!(best.ranked, of_all.ranked);
        }

        #[test]
        fn top_p_is_the_shortest_front_with_the_mass(logits in logits(), p in 0.01f32..0.999) {
            let sorted = fully_sorted(&logits);
            let mut kept = candidates(&logits);
            kept.top_p(p);
            let n = kept.list.len();
            prop_assert!(n >= 1);
            prop_assert_eq!(&kept.list, &sorted[..n]);
            let mass = |n: usize| -> f64 {
                let max = sorted[0].logit;
                let sum = |list: &[Candidate]| list.iter().map(|c| weight(c.logit, max)).sum::<f64>();
                sum(&sorted[..n]) / sum(&sorted)
            };
            prop_assert!(mass(n) >= f64::from(p) - 1e-12);
            prop_assert!(mass(n - 1) < f64::from(p) + 1e-12);
        }

        #[test]
        fn top_p_does_not_depend_on_the_order_it_starts_from(logits in logits(), p in 0.01f32..0.999) {
            let mut by_id = candidates(&logits);
            by_id.top_p(p);
            let mut by_rank = Candidates { list: fully_sorted(&logits), ranked: true };
            by_rank.top_p(p);
            // The total is summed in another order, which may move the end by one candidate.
            let shorter = by_id.list.len().min(by_rank.list.len());
            prop_assert!(by_id.list.len().abs_diff(by_rank.list.len()) <= 1);
            prop_assert_eq!(&by_id.list[..shorter], &by_rank.list[..shorter]);
        }

        #[test]
        fn typical_p_keeps_the_nearest_to_the_entropy(logits in logits(), p in 0.05f32..0.999) {
            let sorted = fully_sorted(&logits);
            let max = sorted[0].logit;
            let total: f64 = sorted.iter().map(|c| weight(c.logit, max)).sum();
            let probability = |c: &Candidate| weight(c.logit, max) / total;
            let surprise = |c: &Candidate| -libm::log(probability(c));
            let entropy: f64 =
                sorted.iter().map(|c| probability(c) * surprise(c)).filter(|part| part.is_finite()).sum();
            let mut kept = candidates(&logits);
            kept.typical_p(p, &mut Vec::new());
            let mass: f64 = kept.list.iter().map(probability).sum();
            prop_assert!(mass >= f64::from(p) - 1e-9);
            let farthest =
                kept.list.iter().map(|c| (surprise(c) - entropy).abs()).fold(0.0, f64::max);
            for out in sorted.iter().filter(|c| !kept.list.contains(c)) {
                prop_assert!((surprise(out) - entropy).abs() >= farthest - 1e-6 || !surprise(out).is_finite());
            }
            prop_assert!(kept.list.windows(2).all(|pair| pair[0].beats(&pair[1])));
        }

        #[test]
        fn bounded_surprise_keeps_the_front(logits in logits(), most in 0.0f64..12.0, ranked: bool) {
            let sorted = fully_sorted(&logits);
            let mut kept = match ranked {
                true => Candidates { list: sorted.clone(), ranked },
                false => candidates(&logits),
            };
            kept.bound_surprise(most);
            let n = kept.list.len();
            prop_assert!(n >= 1);
            prop_assert_eq!(&kept.list, &sorted[..n]);
            let max = sorted[0].logit;
            let total: f64 = sorted.iter().map(|c| weight(c.logit, max)).sum();
            let bits = |c: &Candidate| -libm::log2(weight(c.logit, max) / total);
            prop_assert!(sorted[1..n].iter().all(|c| bits(c) <= most + 1e-9));
            prop_assert!(sorted.get(n).is_none_or(|c| bits(c) > most - 1e-9));
        }

        #[test]
        fn min_p_keeps_by_ratio(logits in logits(), p in 0.001f32..=1.0) {
            let mut kept = candidates(&logits);
            let all = kept.list.clone();
            kept.min_p(p);
            let max = fully_sorted(&logits)[0].logit;
            for candidate in all {
                let ratio = weight(candidate.logit, max);
                if kept.list.contains(&candidate) {
                    prop_assert!(ratio >= f64::from(p) * (1.0 - 1e-4));
                } else {
                    prop_assert!(ratio <= f64::from(p) * (1.0 + 1e-4));
                }
            }
            prop_assert!(kept.list.iter().any(|candidate| candidate.logit == max));
        }

        #[test]
        fn no_temperature_keeps_the_first_maximum(logits in logits()) {
            let mut kept = candidates(&logits);
            kept.temperature(0.0);
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let first = logits.iter().position(|&logit| logit == max).unwrap();
            prop_assert_eq!(kept.list, vec![Candidate { logit: max, id: first as TokenId }]);
        }

        #[test]
        fn draw_always_finds_a_possible_token(logits in logits(), u in 0.0f64..1.0) {
            let id = candidates(&logits).draw(u).unwrap();
            prop_assert!(logits[id as usize].is_finite());
        }
    }

    #[test]
    fn penalties_push_down_whatever_the_sign() {
        let params = SamplingParams {
            repeat_penalty: 2.0,
            frequency_penalty: 0.5,
            presence_penalty: 0.25,
            ..SamplingParams::default()
        };
        let mut by_id = candidates(&[4.0, -4.0, 1.0, 0.0]);
        by_id.penalise(&[(0, 1), (1, 3), (9, 1)], &params);
        let logits: Vec<f32> = by_id.list.iter().map(|candidate| candidate.logit).collect();
        assert_eq!(logits, [1.25, -9.75, 1.0, 0.0]);

        let mut ranked = candidates(&[4.0, 3.0, 3.5, -1.0]);
        ranked.top_k(3);
        ranked.penalise(&[(0, 1), (3, 1)], &params);
        let ids: Vec<TokenId> = ranked.list.iter().map(|candidate| candidate.id).collect();
        assert_eq!(ids, [2, 1, 0]);
    }

    #[test]
    fn biases_move_and_forbid() {
        let mut biased = candidates(&[1.0, 2.0, 3.0]);
        biased.add_biases(&[(0, 5.0), (2, f32::NEG_INFINITY), (9, 1.0)]);
        assert_eq!(biased.list, [Candidate { logit: 6.0, id: 0 }, Candidate { logit: 2.0, id: 1 }]);
        let mut masked = Candidates::default();
        let mut mask = TokenMask::none(3);
        mask.allow(1);
        masked.fill(&[1.0, 2.0, 3.0], Some(&mask));
        assert_eq!(masked.list, [Candidate { logit: 2.0, id: 1 }]);
    }

    #[test]
    fn draw_follows_the_running_sum() {
        // Probabilities 1/4, 1/2, 1/4 in id order.
        let half = candidates(&[0.0, std::f32::consts::LN_2, 0.0]);
        assert_eq!(half.draw(0.0), Some(0));
        assert_eq!(half.draw(0.24), Some(0));
        assert_eq!(half.draw(0.26), Some(1));
        assert_eq!(half.draw(0.74), Some(1));
        assert_eq!(half.draw(0.76), Some(2));
        assert_eq!(half.draw(1.0 - f64::EPSILON / 2.0), Some(2));
        assert_eq!(candidates(&[]).draw(0.5), None);
    }

    #[test]
    fn extreme_logits_stay_finite() {
        let mut extreme = candidates(&[f32::MAX, f32::MIN, 0.0]);
        extreme.temperature(1e-5);
        assert_eq!(extreme.draw(0.999), Some(0));
        extreme.top_p(0.9);
        assert_eq!(extreme.list.len(), 1);
    }
}
