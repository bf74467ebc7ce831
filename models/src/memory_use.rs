//! How much memory is used, and how much there is.

use tch::Device;

use crate::native::{gpu_memory, reset_tensor_peak, tensor_memory};

/// Bytes of a device's memory that were used at most since the process began or since [`reset_peak_memory`]: by tensors on a
/// GPU, by the whole process on the CPU; none where nobody says.
pub fn peak_memory(device: Device) -> Option<u64> {
    if is_gpu(device) { Some(tensor_memory(device).ok()?.peak) } else { status("VmHWM:") }
}

/// Bytes of a device's memory that are used now, counted as [`peak_memory`] does.
pub fn memory_in_use(device: Device) -> Option<u64> {
    if is_gpu(device) { Some(tensor_memory(device).ok()?.now) } else { status("VmRSS:") }
}

/// Makes [`peak_memory`] count anew from what is in use now. Tells whether that was possible (on Linux it is).
pub fn reset_peak_memory(device: Device) -> bool {
    reset_tensor_peak(device).is_ok() && (is_gpu(device) || std::fs::write("/proc/self/clear_refs", "5").is_ok())
}

fn is_gpu(device: Device) -> bool {
    matches!(device, Device::Cuda(_))
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
pub fn machine_memory(device: Device) -> Option<MachineMemory> {
    if let Device::Cuda(index) = device {
        let (total, available) = gpu_memory(index).ok()?;
        return Some(MachineMemory { total, available });
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
        let in_use = memory_in_use(Device::Cpu).expect("Linux says");
        assert!(in_use > 1 << 20);
        assert!(peak_memory(Device::Cpu).expect("Linux says") >= in_use);
        assert!(reset_peak_memory(Device::Cpu));
        let machine = machine_memory(Device::Cpu).expect("Linux says");
        assert!(machine.available > 1 << 20 && machine.available <= machine.total);
    }
}
