//! Differences of texts, line by line, where numbers of values do not count: a pass that removes an op renumbers all that
//! follow it, which changes nothing.

/// Most pairs of lines that are compared; texts beyond this are shown one after the other.
const MOST_PAIRS: usize = 4 << 20;

/// A line without the numbers of values: `%12` becomes `%`.
fn key(line: &str) -> String {
    let mut key = String::with_capacity(line.len());
    let mut after_sign = false;
    for c in line.chars() {
        if !(after_sign && c.is_ascii_digit()) {
            key.push(c);
            after_sign = c == '%';
        }
    }
    key
}

/// The lines of both texts in order, those that both have (by what they say, in the numbers of `after`) with a blank before them,
/// those of `before` only with `-`, of `after` only with `+`.
pub(super) fn lines(before: &[String], after: &[String]) -> Vec<String> {
    let keys = |lines: &[String]| lines.iter().map(|line| key(line)).collect::<Vec<_>>();
    let (old, new) = (keys(before), keys(after));
    let start = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - start;
    let end = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[start..old.len() - end], &new[start..new.len() - end]);

    let mut diff: Vec<String> = after[..start].iter().map(|line| format!(" {line}")).collect();
    let removed = |i: usize| format!("-{}", before[start + i]);
    let added = |j: usize| format!("+{}", after[start + j]);
    if old.len().saturating_mul(new.len()) > MOST_PAIRS {
        diff.extend((0..old.len()).map(removed));
        diff.extend((0..new.len()).map(added));
    } else {
        // Length of the longest common subsequence of what follows.
        let width = new.len() + 1;
        let mut common = vec![0u32; (old.len() + 1) * width];
        for i in (0..old.len()).rev() {
            for j in (0..new.len()).rev() {
                common[i * width + j] = match old[i] == new[j] {
                    true => common[(i + 1) * width + j + 1] + 1,
                    false => common[(i + 1) * width + j].max(common[i * width + j + 1]),
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < old.len() || j < new.len() {
            if i < old.len() && j < new.len() && old[i] == new[j] {
                diff.push(format!(" {}", after[start + j]));
                (i, j) = (i + 1, j + 1);
            } else if j == new.len()
                || (i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1])
            {
                diff.push(removed(i));
                i += 1;
            } else {
                diff.push(added(j));
                j += 1;
            }
        }
    }
    diff.extend(after[after.len() - end..].iter().map(|line| format!(" {line}")));
    diff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(before: &str, after: &str) -> String {
        let split = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        lines(&split(before), &split(after)).join("|")
    }

    #[test]
    fn what_is_common_stays() {
        assert_eq!(diff("a b c", "a b c"), " a| b| c");
        assert_eq!(diff("a b c d", "a x c d y"), " a|-b|+x| c| d|+y");
        assert_eq!(diff("", "a"), "+a");
        assert_eq!(diff("a b", ""), "-a|-b");
        assert_eq!(diff("a a b", "a b"), " a|-a| b");
    }

    #[test]
    fn numbers_of_values_do_not_count_and_others_do() {
        assert_eq!(diff("%1=f(%0) %2=g(%1)", "%0=f(%7) %1=g(%0)"), " %0=f(%7)| %1=g(%0)");
        assert_eq!(diff("%1=f{n=1}", "%1=f{n=2}"), "-%1=f{n=1}|+%1=f{n=2}");
    }

    #[test]
    fn both_texts_can_be_read_off_it() {
        let text =
            |seed: u32| -> Vec<String> { (0..40).map(|i: u32| (i * seed % 7 + i / 9).to_string()).collect() };
        for (a, b) in [(1, 2), (3, 5), (5, 1), (2, 2)] {
            let (a, b) = (text(a), text(b));
            let diff = lines(&a, &b);
            let of = |sign: char| -> Vec<String> {
                diff.iter().filter(|l| l.starts_with([' ', sign])).map(|l| l[1..].to_owned()).collect()
            };
            assert_eq!((of('-'), of('+')), (a, b));
        }
    }

    #[test]
    fn long_texts_are_not_compared_by_pairs() {
        let before: Vec<String> = (0..5000).map(|i| format!("a{i}")).collect();
        let after: Vec<String> = (0..5000).map(|i| format!("b{i}")).collect();
        assert_eq!(lines(&before, &after).len(), 10_000);
    }
}
