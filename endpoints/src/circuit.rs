//! A server that keeps failing is left alone, and one request at a time finds out whether it is back.

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::failure::{Failure, FailureKind};

/// How a server has been doing.
#[derive(Debug)]
pub(crate) enum Circuit {
    /// It answers; so many failures in a row since it last did.
    Closed(u32),
    /// It failed too often.
    Open {
        /// Until when it is left alone.
        until: Instant,
        /// How often it was left alone in a row.
        n_pauses: u32,
        /// Whether a request is finding out whether it is back.
        probing: bool,
        /// How it failed last.
        last: Failure,
    },
}

/// Whether a request may be sent.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It may; the flag says whether others wait for what comes of it.
    Yes {
        /// Whether it is the one that finds out.
        is_probe: bool,
    },
    /// Not before this moment.
    From(Instant),
    /// When the request that finds out has come back.
    AfterProbe,
    /// It fails at once.
    Refused(Failure),
}

impl Circuit {
    /// Whether a request may be sent now. Patience is how many pauses in a row are waited out.
    pub(crate) fn admission(&self, now: Instant, patience: u32) -> Admission {
        match self {
            Self::Closed(_) => Admission::Yes { is_probe: false },
            Self::Open { until, probing: false, .. } if *until <= now => Admission::Yes { is_probe: true },
            Self::Open { until, n_pauses, last, .. } if *n_pauses > patience => {
                let secs = until.saturating_duration_since(now).as_secs_f64();
                let message = format!("it failed again and again, so it is not asked for {secs:.1} s; the last failure: {last}");
                Admission::Refused(Failure { attempts: 0, ..Failure::new(FailureKind::CircuitOpen, &last.url, message) })
            }
            Self::Open { probing: true, .. } => Admission::AfterProbe,
            Self::Open { until, .. } => Admission::From(*until),
        }
    }

    /// The request that finds out is on its way.
    pub(crate) fn probe(&mut self) {
        if let Self::Open { probing, .. } = self {
            *probing = true;
        }
    }

    /// The request that finds out was dropped, so another must.
    pub(crate) fn probe_dropped(&mut self) {
        if let Self::Open { probing, .. } = self {
            *probing = false;
        }
    }

    /// The server answered.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::Closed(0);
    }

    /// The server failed; `limit` failures in a row open the circuit (0: never).
    pub(crate) fn failed(&mut self, failure: &Failure, is_probe: bool, limit: u32, backoff: &Backoff, now: Instant) {
        let n_pauses = match self {
            Self::Closed(n_failures) => {
                *n_failures += 1;
                if limit == 0 || *n_failures < limit {
                    return;
                }
                1
            }
            // Requests that were on their way when it opened say nothing new.
            Self::Open { .. } if !is_probe => return,
            Self::Open { n_pauses, .. } => *n_pauses + 1,
        };
        let until = now + backoff.whole(n_pauses + 1);
        *self = Self::Open { until, n_pauses, probing: false, last: failure.clone() };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_opens_after_a_run_of_failures_probes_once_a_pause_and_closes_when_one_succeeds() {
        let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };
        let failure = Failure::new(FailureKind::ServerError, "http://h/v1", "on fire");
        let (mut circuit, mut now) = (Circuit::Closed(0), Instant::now());
        let is_yes = |circuit: &Circuit, now| matches!(circuit.admission(now, 2), Admission::Yes { is_probe: false });
        for _ in 0..2 {
            circuit.failed(&failure, false, 3, &backoff, now);
        }
        assert!(is_yes(&circuit, now));
        circuit.succeeded();
        for _ in 0..3 {
            assert!(is_yes(&circuit, now));
            circuit.failed(&failure, false, 3, &backoff, now);
        }
        for pause in [2, 4] {
            assert!(matches!(circuit.admission(now, 2), Admission::From(moment) if moment == now + Duration::from_secs(pause)));
            now += Duration::from_secs(pause);
            assert!(matches!(circuit.admission(now, 2), Admission::Yes { is_probe: true }));
            circuit.probe();
            assert!(matches!(circuit.admission(now, 2), Admission::AfterProbe));
            circuit.failed(&failure, false, 3, &backoff, now);
            assert!(matches!(circuit.admission(now, 2), Admission::AfterProbe), "an old failure says nothing");
            circuit.probe_dropped();
            circuit.probe();
            circuit.failed(&failure, true, 3, &backoff, now);
        }
        let Admission::Refused(refusal) = circuit.admission(now, 2) else { panic!("patience is over: {circuit:?}") };
        assert!(refusal.kind == FailureKind::CircuitOpen && refusal.message.contains("on fire"), "{refusal}");
        now += Duration::from_secs(8);
        assert!(matches!(circuit.admission(now, 2), Admission::Yes { is_probe: true }), "it may be back");
        circuit.succeeded();
        assert!(is_yes(&circuit, now));
    }

    #[test]
    fn with_no_limit_it_never_opens() {
        let mut circuit = Circuit::Closed(0);
        for _ in 0..1000 {
            circuit.failed(&Failure::new(FailureKind::TimedOut, "u", ""), false, 0, &Backoff::default(), Instant::now());
        }
        assert!(matches!(circuit, Circuit::Closed(1000)));
    }
}
