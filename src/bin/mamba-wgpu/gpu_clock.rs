//! A GPU's clock, as its driver tells it: NVIDIA's library (NVML, loaded where it is there), AMD's and Intel's files under Linux.

use mamba_wgpu::bench::{ClockReader, Host};
use mamba_wgpu::gpu::AdapterSummary;

/// Reads an adapter's clock; `None` where nothing tells it.
pub fn reader(adapter: &AdapterSummary) -> Option<ClockReader> {
    if adapter.device_type == "Cpu" {
        return None;
    }
    nvidia(adapter).or_else(|| sysfs::reader(&adapter.pci_bus_id))
}

#[cfg(any(target_os = "linux", windows))]
fn nvidia(adapter: &AdapterSummary) -> Option<ClockReader> {
    use nvml_wrapper::{enum_wrappers::device::Clock, Nvml};
    if !adapter.name.to_lowercase().contains("nvidia") {
        return None;
    }
    // The library stays for as long as the program.
    let nvml: &'static Nvml = Box::leak(Box::new(Nvml::init().ok()?));
    let device = match nvml.device_by_pci_bus_id(adapter.pci_bus_id.as_str()) {
        Ok(device) => device,
        // Not every API tells where the adapter is.
        Err(_) if nvml.device_count().is_ok_and(|count| count == 1) => nvml.device_by_index(0).ok()?,
        Err(_) => return None,
    };
    let read = move || device.clock_info(Clock::SM).ok().map(f64::from);
    read().map(|_| ClockReader::new(read))
}

#[cfg(not(any(target_os = "linux", windows)))]
fn nvidia(_: &AdapterSummary) -> Option<ClockReader> {
    None
}

mod sysfs {
    use super::ClockReader;
    use std::fs;
    use std::path::{Path, PathBuf};

    pub fn reader(pci_bus_id: &str) -> Option<ClockReader> {
        let device = Path::new("/sys/bus/pci/devices").join(pci_bus_id);
        if pci_bus_id.is_empty() || !device.is_dir() {
            return None;
        }
        let source = Source::find(&device)?;
        Some(ClockReader::new(move || source.mhz()))
    }

    /// A file, and what is in it.
    #[derive(Debug, PartialEq)]
    pub enum Source {
        /// amdgpu: lines of clocks, the one in use with a star.
        Levels(PathBuf),
        /// amdgpu's sensor, in Hz.
        Hertz(PathBuf),
        /// i915 and xe.
        Megahertz(PathBuf),
    }

    /// The first file of that name in the folders of a folder whose names begin so.
    fn within(folder: &Path, begins: &str, file: &str) -> Option<PathBuf> {
        let mut folders: Vec<PathBuf> =
            fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        folders.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begins)));
        folders.sort();
        folders.into_iter().map(|path| path.join(file)).find(|path| path.is_file())
    }

    impl Source {
        pub fn find(device: &Path) -> Option<Self> {
            let hertz = within(&device.join("hwmon"), "hwmon", "freq1_input").map(Source::Hertz);
            let levels = || Some(device.join("pp_dpm_sclk")).filter(|path| path.is_file()).map(Source::Levels);
            let card = |file| within(&device.join("drm"), "card", file).map(Source::Megahertz);
            let all = hertz.or_else(levels).or_else(|| card("gt/gt0/rps_act_freq_mhz"));
            all.or_else(|| card("gt_act_freq_mhz")).or_else(|| {
                let tile = device.join("tile0/gt0/freq0/act_freq");
                tile.is_file().then_some(Source::Megahertz(tile))
            })
        }

        pub fn mhz(&self) -> Option<f64> {
            let (Source::Levels(path) | Source::Hertz(path) | Source::Megahertz(path)) = self;
            let text = fs::read_to_string(path).ok()?;
            let mhz = match self {
                Source::Hertz(_) => text.trim().parse::<f64>().ok()? / 1e6,
                Source::Megahertz(_) => text.trim().parse().ok()?,
                Source::Levels(_) => {
                    let (_, clock) = text.lines().find(|line| line.contains('*'))?.split_once(':')?;
                    let digits: String = clock.trim().chars().take_while(char::is_ascii_digit).collect();
                    digits.parse().ok()?
                }
            };
            Some(mhz).filter(|mhz: &f64| *mhz > 0.0)
        }
    }
}

/// The processor and the system, for reports.
pub fn host() -> Host {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    Host { cpu, system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH) }
}

#[cfg(test)]
mod tests {
    use super::sysfs::Source;
    use std::fs;

    /// The files as amdgpu and i915 have them.
    #[test]
    fn clocks_are_read_from_what_drivers_write() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path();
        assert_eq!(Source::find(device), None);
        let write = |path: &str, text: &str| {
            let path = device.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("drm/card0/gt_act_freq_mhz", "1350\n");
        assert_eq!(Source::find(device).unwrap().mhz(), Some(1350.0));
        write("pp_dpm_sclk", "0: 500Mhz \n1: 1650Mhz *\n2: 2200Mhz \n");
        assert_eq!(Source::find(device).unwrap().mhz(), Some(1650.0));
        write("hwmon/hwmon3/freq1_input", "2100000000\n");
        assert_eq!(Source::find(device).unwrap().mhz(), Some(2100.0));
        // Asleep, or something else altogether.
        for text in ["0\n", "", "unsupported\n"] {
            write("hwmon/hwmon3/freq1_input", text);
            assert_eq!(Source::find(device).unwrap().mhz(), None);
        }
    }
}
