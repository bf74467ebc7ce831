//! Numbers as tables and charts write them: always the same text for the same number.

/// With so many decimals; never `-0.00`, and empty for what is not finite.
pub(crate) fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return String::new();
    }
    let text = format!("{value:.decimals$}");
    let is_zero = text.bytes().all(|byte| matches!(byte, b'-' | b'0' | b'.'));
    if is_zero { text.trim_start_matches('-').to_owned() } else { text }
}

/// With about four significant digits, for a number whose size is not known beforehand.
pub(crate) fn significant(value: f64) -> String {
    if !value.is_finite() {
        return String::new();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let exponent = value.abs().log10().floor();
    if !(-4.0..6.0).contains(&exponent) {
        return format!("{value:.3e}");
    }
    fixed(value, (3.0 - exponent).clamp(0.0, 7.0) as usize)
}

/// The label of an axis tick, given the distance of the ticks: as many decimals as tell the ticks apart.
pub(crate) fn tick(value: f64, step: f64) -> String {
    if !step.is_finite() || step <= 0.0 {
        return significant(value);
    }
    let largest = value.abs().max(step);
    if !(1e-4..1e6).contains(&largest) {
        let text = format!("{value:.1e}");
        return if value == 0.0 { "0".to_owned() } else { text.replace(".0e", "e") };
    }
    let decimals = (-(step * 1.0001).log10().floor()).clamp(0.0, 8.0) as usize;
    // A step such as 2.5 needs one decimal more than its size says.
    let scaled = step * 10f64.powi(decimals as i32);
    let decimals = if (scaled - scaled.round()).abs() > 1e-6 { decimals + 1 } else { decimals };
    fixed(value, decimals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_has_no_sign_and_nan_no_text() {
        assert_eq!(fixed(-0.001, 2), "0.00");
        assert_eq!(fixed(-1.005, 1), "-1.0");
        assert_eq!(fixed(f64::NAN, 2), "");
        assert_eq!(significant(f64::INFINITY), "");
    }

    #[test]
    fn four_significant_digits() {
        for (value, text) in
            [(0.0, "0"), (1.0, "1.000"), (0.012345, "0.01235"), (123456.0, "123456"), (1e-7, "1.000e-7"), (-2.5, "-2.500")]
        {
            assert_eq!(significant(value), text);
        }
    }

    #[test]
    fn ticks_have_the_decimals_of_their_distance() {
        assert_eq!(tick(20.0, 20.0), "20");
        assert_eq!(tick(0.5, 0.25), "0.50");
        assert_eq!(tick(2.5, 2.5), "2.5");
        assert_eq!(tick(0.003, 0.001), "0.003");
        assert_eq!(tick(2e-5, 1e-5), "2e-5");
        assert_eq!(tick(0.30000000000000004, 0.1), "0.3");
    }
}
