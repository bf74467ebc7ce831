//! How much memory this process uses, and how much the machine has.

/// Bytes of memory that this process has used at most since it began or since [`reset_peak_memory`]; none where the
/// operating system does not say.
pub fn peak_memory() -> Option<u64> {
    status("VmHWM:")
}

/// Bytes of memory that this process uses now.
pub fn memory_in_use() -> Option<u64> {
    status("VmRSS:")
}

/// Makes [`peak_memory`] count anew from what is in use now. Tells whether the operating system did it (Linux does).
pub fn reset_peak_memory() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// What a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineMemory {
    /// Bytes that this process may use at most.
    pub total: u64,
    /// Bytes that are free now.
    pub available: u64,
}

/// The memory of a device; none where nobody says. A limit on the process's control group counts where it is lower than what
/// the machine has.
pub fn machine_memory(device: tch::Device) -> Option<MachineMemory> {
    if device != tch::Device::Cpu {
        return None;
    }
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let (total, available) = (field(&text, "MemTotal:")?, field(&text, "MemAvailable:")?);
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|limit| limit.trim().parse::<u64>().ok());
    let total = limit.map_or(total, |limit| total.min(limit));
    Some(MachineMemory { total, available: available.min(total) })
}

fn status(name: &str) -> Option<u64> {
    field(&std::fs::read_to_string("/proc/self/status").ok()?, name)
}

/// A field in kB, as bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_kernel_are_read_in_bytes() {
        let text = "Name:\tfarmhand\nVmHWM:\t    2048 kB\nVmRSS:\t 12 kB\nThreads:\t3\n";
        assert_eq!((field(text, "VmHWM:"), field(text, "VmRSS:")), (Some(2 << 20), Some(12 << 10)));
        assert_eq!((field(text, "VmSwap:"), field(text, "Threads:")), (None, None));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_is_at_least_what_is_in_use_and_the_machine_has_some_left() {
        let in_use = memory_in_use().expect("Linux says");
        assert!(in_use > 1 << 20);
        assert!(peak_memory().expect("Linux says") >= in_use);
        let machine = machine_memory(tch::Device::Cpu).expect("Linux says");
        assert!(machine.available > 1 << 20 && machine.available <= machine.total);
    }
}
