//! How many queries may be asked a second time merely because an answer is late (pure).

/// Thousandths of a second asking that a query costs.
const COST: u32 = 1000;
/// What may be saved up: second askings that a bad moment may take at once.
const SAVED_AT_MOST: u32 = 20 * COST;

/// Each query earns a share of a second asking; a second asking takes a whole one. So their number stays below the share,
/// whatever happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    saved: u32,
}

impl Allowance {
    /// A query came; second askings may be `percent` of the queries.
    pub fn earn(&mut self, percent: u8) {
        self.saved = (self.saved + u32::from(percent) * COST / 100).min(SAVED_AT_MOST);
    }

    /// Whether there is enough for a second asking.
    pub fn suffices(&self) -> bool {
        self.saved >= COST
    }

    /// Pays for a second asking.
    pub fn spend(&mut self) {
        self.saved = self.saved.saturating_sub(COST);
    }
}

#[cfg(test)]
mod tests {
    use super::Allowance;

    #[test]
    fn second_askings_stay_below_the_share_of_all_queries() {
        for percent in [0, 1, 5, 50, 100] {
            let (mut allowance, mut spent) = (Allowance::default(), 0);
            for queries in 1..10_000u32 {
                allowance.earn(percent);
                if allowance.suffices() {
                    allowance.spend();
                    spent += 1;
                }
                assert!(spent * 100 <= queries * u32::from(percent), "{spent} of {queries}");
            }
            assert!(spent + 1 >= 9_999 * u32::from(percent) / 100, "{percent}: {spent}");
        }
    }

    #[test]
    fn a_quiet_day_saves_up_a_little_and_no_more() {
        let mut allowance = Allowance::default();
        (0..1_000_000).for_each(|_| allowance.earn(5));
        let mut spent = 0;
        while allowance.suffices() {
            allowance.spend();
            spent += 1;
        }
        assert_eq!(spent, 20);
    }
}
