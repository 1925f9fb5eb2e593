//! The angles of rotary position embedding (Su et al. 2021), defined once: the interpreter asks for them one by one, and
//! the runtime fills the table that kernels read with them, so both turn by the same bits.

/// The frequencies `theta^(−2j/rot)` of the pairs j < rot/2 of a head, in radians per position: computed in f64 by the
/// `libm` crate, so that no platform's libm matters.
pub fn frequencies(theta: f32, rot: u32) -> Vec<f64> {
    (0..rot / 2).map(|j| libm::pow(f64::from(theta), -2.0 * f64::from(j) / f64::from(rot))).collect()
}

/// Cosine and sine of `pos · frequency`, rounded to f32 at the end.
pub fn cos_sin_at(frequency: f64, pos: u32) -> (f32, f32) {
    let angle = f64::from(pos) * frequency;
    (libm::cos(angle) as f32, libm::sin(angle) as f32)
}

/// Cosine and sine of the angle by which pair `j` (below `rot / 2`) of a head is turned at position `pos`.
pub fn cos_sin(theta: f32, rot: u32, pos: u32, j: u32) -> (f32, f32) {
    let frequency = libm::pow(f64::from(theta), -2.0 * f64::from(j) / f64::from(rot));
    cos_sin_at(frequency, pos)
}

#[cfg(test)]
mod tests {
    use super::cos_sin;

    #[test]
    fn position_zero_does_not_turn() {
        for j in 0..64 {
            assert_eq!(cos_sin(500_000.0, 128, 0, j), (1.0, 0.0));
        }
    }

    #[test]
    fn the_first_pair_turns_by_one_radian_for_each_position() {
        assert_eq!(cos_sin(10_000.0, 64, 1, 0), (0.540_302_3, 0.841_470_96));
        assert_eq!(cos_sin(10_000.0, 64, 2, 0), (-0.416_146_84, 0.909_297_4));
    }

    #[test]
    fn the_middle_pair_turns_by_one_over_root_theta() {
        // theta = 16, rot = 4, j = 1: the frequency is 16^(-1/2) = 1/4.
        let (c, s) = cos_sin(16.0, 4, 4, 1);
        assert_eq!((c, s), (0.540_302_3, 0.841_470_96));
    }

    #[test]
    fn far_positions_keep_the_precision_of_f64() {
        // cos and sin of 131071 radians; an f32 angle would be good to two digits at the later pairs only.
        let (c, s) = cos_sin(500_000.0, 128, 131_071, 0);
        assert!((f64::from(c) - 131_071f64.cos()).abs() < 1e-7);
        assert!((f64::from(s) - 131_071f64.sin()).abs() < 1e-7);
    }
}
