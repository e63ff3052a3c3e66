//! The adapters there are, in the order in which they are preferred.

use super::{GpuError, GpuOptions};
use serde::{Deserialize, Serialize};

/// Software renderers by their names, in lower case: some drivers do not say what they are.
const SOFTWARE: [&str; 4] = ["llvmpipe", "softpipe", "swiftshader", "microsoft basic render"];

fn in_software(name: &str, device_type: &str) -> bool {
    let name = name.to_lowercase();
    device_type == "Cpu" || SOFTWARE.iter().any(|software| name.contains(software))
}

/// How a caller names an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdapterChoice {
    /// Its place in [`list_adapters`].
    Index(usize),
    /// A part of its name, in any case.
    Name(String),
}

impl std::str::FromStr for AdapterChoice {
    type Err = std::convert::Infallible;
    /// A whole number is an index, anything else a name.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(match s.parse() {
            Ok(i) => AdapterChoice::Index(i),
            Err(_) => AdapterChoice::Name(s.to_owned()),
        })
    }
}

/// One adapter, in words, as `mamba-wgpu adapters` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterSummary {
    pub index: usize,
    pub name: String,
    pub backend: String,
    /// DiscreteGpu, IntegratedGpu, VirtualGpu, Cpu (a software renderer) or Other.
    pub device_type: String,
    pub driver: String,
    pub driver_info: String,
    /// Where it is, `0000:01:00.0`; empty where its API does not tell.
    #[serde(default)]
    pub pci_bus_id: String,
    /// Whether it has compute shaders at all (old OpenGL has not).
    pub compute: bool,
    pub subgroup_min_size: u32,
    pub subgroup_max_size: u32,
    pub max_buffer_size: u64,
    pub max_storage_buffer_binding_size: u64,
    pub max_compute_workgroup_storage_size: u32,
    pub max_compute_invocations_per_workgroup: u32,
    pub shader_f16: bool,
    pub subgroups: bool,
    pub timestamp_query: bool,
    pub cooperative_matrix: bool,
}

impl AdapterSummary {
    pub(super) fn new(index: usize, adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let limits = adapter.limits();
        let has = |f| adapter.features().contains(f);
        Self {
            index,
            name: info.name,
            backend: info.backend.to_str().to_owned(),
            device_type: format!("{:?}", info.device_type),
            driver: info.driver,
            driver_info: info.driver_info,
            pci_bus_id: info.device_pci_bus_id,
            compute: adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS),
            subgroup_min_size: info.subgroup_min_size,
            subgroup_max_size: info.subgroup_max_size,
            max_buffer_size: limits.max_buffer_size,
            max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
            max_compute_workgroup_storage_size: limits.max_compute_workgroup_storage_size,
            max_compute_invocations_per_workgroup: limits.max_compute_invocations_per_workgroup,
            shader_f16: has(wgpu::Features::SHADER_F16),
            subgroups: has(wgpu::Features::SUBGROUP),
            timestamp_query: has(wgpu::Features::TIMESTAMP_QUERY),
            cooperative_matrix: has(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
        }
    }

    /// Whether it is no GPU but a program that stands in for one (lavapipe, SwiftShader, WARP): right, and slower than this
    /// crate's CPU backend. The GPU of a virtual machine is one.
    pub fn software(&self) -> bool {
        in_software(&self.name, &self.device_type)
    }

    /// "0: NVIDIA H100 (vulkan)", for messages.
    pub fn line(&self) -> String {
        format!("{}: {} ({})", self.index, self.name, self.backend)
    }
}

/// An adapter with the instance that it must not outlive.
pub(super) struct Found {
    pub adapters: Vec<wgpu::Adapter>,
    _instance: wgpu::Instance,
}

/// All adapters of a backend, best first: real GPUs before software. Without a backend: the native APIs (or those that
/// the environment variable WGPU_BACKEND names), and OpenGL only where they have nothing, since starting it is slow
/// and noisy.
pub(super) async fn find(backend: Option<wgpu::Backend>, power: wgpu::PowerPreference) -> Found {
    let named = wgpu::Backends::from_env();
    let mut tries = match (backend, named) {
        (Some(backend), _) => vec![wgpu::Backends::from(backend)],
        (None, Some(named)) => vec![named],
        (None, None) => vec![wgpu::Backends::PRIMARY, wgpu::Backends::SECONDARY],
    }
    .into_iter();
    loop {
        let backends = tries.next();
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
        descriptor.backends = backends.unwrap_or(wgpu::Backends::empty());
        let instance = wgpu::Instance::new(descriptor);
        let adapters = sorted(&instance, power).await;
        if !adapters.is_empty() || backends.is_none() {
            return Found { adapters, _instance: instance };
        }
    }
}

async fn sorted(instance: &wgpu::Instance, power: wgpu::PowerPreference) -> Vec<wgpu::Adapter> {
    let mut adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    // The web has no list: it gives the one adapter that fits.
    if adapters.is_empty() {
        let options = wgpu::RequestAdapterOptions { power_preference: power, ..Default::default() };
        adapters.extend(instance.request_adapter(&options).await.ok());
    }
    let rank = |a: &wgpu::Adapter| {
        let info = a.get_info();
        let kind = match (info.device_type, power) {
            _ if in_software(&info.name, "") => 5,
            (wgpu::DeviceType::IntegratedGpu, wgpu::PowerPreference::LowPower) => 0,
            (wgpu::DeviceType::DiscreteGpu, _) => 1,
            (wgpu::DeviceType::IntegratedGpu, _) => 2,
            (wgpu::DeviceType::VirtualGpu, _) => 3,
            (wgpu::DeviceType::Other, _) => 4,
            (wgpu::DeviceType::Cpu, _) => 5,
        };
        let compute = a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS);
        (!compute, kind)
    };
    adapters.sort_by_key(rank);
    adapters
}

/// Every adapter of a backend, best first; for `None` those of the native APIs, or of OpenGL where they have none.
pub async fn list_adapters(backend: Option<wgpu::Backend>) -> Vec<AdapterSummary> {
    let found = find(backend, wgpu::PowerPreference::HighPerformance).await;
    found.adapters.iter().enumerate().map(|(i, a)| AdapterSummary::new(i, a)).collect()
}

/// The best of these that models can run on and that is hardware.
pub fn best_hardware(adapters: &[AdapterSummary]) -> Option<&AdapterSummary> {
    adapters.iter().find(|adapter| adapter.compute && !adapter.software())
}

/// The adapter that the options ask for.
pub(super) fn choose(
    adapters: Vec<wgpu::Adapter>,
    options: &GpuOptions,
) -> Result<(wgpu::Adapter, AdapterSummary), GpuError> {
    let summaries: Vec<_> = adapters.iter().enumerate().map(|(i, a)| AdapterSummary::new(i, a)).collect();
    let summary = pick(&summaries, options)?.clone();
    let adapter = adapters.into_iter().nth(summary.index);
    adapter.map(|a| (a, summary)).ok_or(GpuError::NoAdapter { backends: "any backend".into() })
}

/// The same of a list, whose indices are in order.
fn pick<'a>(adapters: &'a [AdapterSummary], options: &GpuOptions) -> Result<&'a AdapterSummary, GpuError> {
    let found = match &options.adapter {
        None => {
            let hardware = if options.software { None } else { best_hardware(adapters) };
            let Some(best) = hardware.or(adapters.first()) else {
                let backends = options.backend.map_or("any backend".into(), |b| b.to_str().to_owned());
                return Err(GpuError::NoAdapter { backends });
            };
            if !options.software && best.compute && best.software() {
                return Err(GpuError::OnlySoftware {
                    index: best.index,
                    adapter: format!("{} ({})", best.name, best.backend),
                });
            }
            Some(best)
        }
        Some(AdapterChoice::Index(index)) => adapters.get(*index),
        Some(AdapterChoice::Name(name)) => {
            let name = name.to_lowercase();
            adapters.iter().find(|adapter| adapter.name.to_lowercase().contains(&name))
        }
    };
    let Some(found) = found else {
        let wanted = match &options.adapter {
            Some(AdapterChoice::Index(i)) => format!("number {i}"),
            Some(AdapterChoice::Name(name)) => format!("named {name:?}"),
            None => String::new(),
        };
        return Err(GpuError::UnknownAdapter {
            wanted,
            available: adapters.iter().map(AdapterSummary::line).collect(),
        });
    };
    match found.compute {
        true => Ok(found),
        false => Err(GpuError::NoCompute { adapter: found.line() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(index: usize, name: &str, device_type: &str) -> AdapterSummary {
        AdapterSummary {
            index,
            name: name.into(),
            backend: "vulkan".into(),
            device_type: device_type.into(),
            driver: String::new(),
            driver_info: String::new(),
            pci_bus_id: String::new(),
            compute: true,
            subgroup_min_size: 32,
            subgroup_max_size: 32,
            max_buffer_size: 1 << 30,
            max_storage_buffer_binding_size: 1 << 30,
            max_compute_workgroup_storage_size: 1 << 14,
            max_compute_invocations_per_workgroup: 256,
            shader_f16: false,
            subgroups: false,
            timestamp_query: false,
            cooperative_matrix: false,
        }
    }

    const HARDWARE_ONLY: GpuOptions = GpuOptions {
        backend: None,
        adapter: None,
        software: false,
        power_preference: wgpu::PowerPreference::HighPerformance,
        limits: crate::gpu::LimitMode::Full,
        checked_shaders: false,
        fault: None,
        watch: false,
    };

    fn named(name: &str) -> GpuOptions {
        GpuOptions { adapter: name.parse().ok(), ..HARDWARE_ONLY }
    }

    #[test]
    fn software_is_told_by_its_type_or_its_name() {
        for (name, device_type) in [
            ("llvmpipe (LLVM 15.0.6, 256 bits)", "Cpu"),
            ("A renderer nobody knows", "Cpu"),
            ("SwiftShader Device (LLVM 10.0.0)", "Other"),
            ("Microsoft Basic Render Driver", "DiscreteGpu"),
            ("Microsoft Direct3D12 (Microsoft Basic Render Driver)", "Other"),
            ("Virtio-GPU Venus (llvmpipe (LLVM 15.0.6, 256 bits))", "VirtualGpu"),
        ] {
            assert!(adapter(0, name, device_type).software(), "{name}");
        }
        for (name, device_type) in [
            ("NVIDIA H200", "DiscreteGpu"),
            ("Intel(R) UHD Graphics 620", "IntegratedGpu"),
            ("Virtio-GPU Venus (AMD Radeon RX 7900 XTX)", "VirtualGpu"),
            ("Apple M2", "Other"),
        ] {
            assert!(!adapter(0, name, device_type).software(), "{name}");
        }
    }

    #[test]
    fn hardware_alone_is_taken_unless_software_may_be_or_is_named() {
        let both = [adapter(0, "llvmpipe", "Cpu"), adapter(1, "Virtio-GPU Venus (AMD)", "VirtualGpu")];
        let software = &both[..1];
        assert_eq!(pick(&both, &HARDWARE_ONLY).map(|a| a.index).ok(), Some(1));
        let refused = pick(software, &HARDWARE_ONLY);
        assert!(
            matches!(&refused, Err(GpuError::OnlySoftware { index: 0, adapter }) if adapter.contains("llvmpipe")),
            "{refused:?}"
        );
        assert_eq!(pick(software, &GpuOptions::default()).map(|a| a.index).ok(), Some(0), "better than none");
        for name in ["0", "LLVM"] {
            assert_eq!(pick(&both, &named(name)).map(|a| a.index).ok(), Some(0), "{name}");
        }
        assert!(matches!(pick(&both, &named("2")), Err(GpuError::UnknownAdapter { .. })));
        assert!(matches!(pick(&[], &HARDWARE_ONLY), Err(GpuError::NoAdapter { .. })));
        // Hardware that cannot compute is none.
        let mut old = both.clone();
        old[1].compute = false;
        assert!(matches!(pick(&old, &HARDWARE_ONLY), Err(GpuError::OnlySoftware { .. })));
        assert!(matches!(pick(&old[1..], &HARDWARE_ONLY), Err(GpuError::NoCompute { .. })));
    }
}
