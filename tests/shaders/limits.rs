//! WebGPU's default limits, seen by reflection. No kernel may need more, so that every adapter runs it: the library
//! raises the sizes of buffers and bindings alone.

use crate::translate::Resolved;
use mamba_wgpu::kernels::ShaderVariant;
use naga::AddressSpace;

const STORAGE_BUFFERS: usize = 8; // maxStorageBuffersPerShaderStage
const UNIFORM_BUFFERS: usize = 12; // maxUniformBuffersPerShaderStage
const WORKGROUP_MEMORY: u32 = 16384; // maxComputeWorkgroupStorageSize, bytes
const INVOCATIONS: u32 = 256; // maxComputeInvocationsPerWorkgroup
const SIZE_XYZ: [u32; 3] = [256, 256, 64]; // maxComputeWorkgroupSizeX, Y, Z

/// Cooperative matrices are a native variant, for adapters that have this much (gpu/context.rs asks for it).
const COOPERATIVE_MEMORY: u32 = 48 << 10;

pub fn workgroup_memory(variant: &ShaderVariant) -> u32 {
    if variant.needs.cooperative_matrix {
        COOPERATIVE_MEMORY
    } else {
        WORKGROUP_MEMORY
    }
}

pub fn check(resolved: &Resolved, workgroup_memory: u32) -> Result<(), String> {
    let entry = &resolved.module.entry_points[0];
    let uses = resolved.info.get_entry_point(0);
    let (mut storage, mut uniform, mut workgroup) = (0, 0, 0);
    for (handle, variable) in resolved.module.global_variables.iter() {
        if uses[handle].is_empty() {
            continue;
        }
        match variable.space {
            AddressSpace::Storage { .. } => storage += 1,
            AddressSpace::Uniform => uniform += 1,
            AddressSpace::WorkGroup => {
                let size = resolved.module.types[variable.ty].inner.size(resolved.module.to_ctx());
                // As WebGPU counts: each variable rounded up to 16 bytes.
                workgroup += size.next_multiple_of(16);
            }
            _ => {}
        }
    }
    if storage > STORAGE_BUFFERS {
        return Err(format!("{storage} storage buffers, above {STORAGE_BUFFERS}"));
    }
    if uniform > UNIFORM_BUFFERS {
        return Err(format!("{uniform} uniform buffers, above {UNIFORM_BUFFERS}"));
    }
    if workgroup > workgroup_memory {
        return Err(format!("{workgroup} bytes of workgroup memory, above {workgroup_memory}"));
    }
    let invocations: u32 = entry.workgroup_size.iter().product();
    if invocations > INVOCATIONS {
        return Err(format!("{invocations} invocations a workgroup, above {INVOCATIONS}"));
    }
    if entry.workgroup_size.iter().zip(SIZE_XYZ).any(|(size, limit)| *size > limit) {
        return Err(format!("a workgroup of {:?}, above {SIZE_XYZ:?}", entry.workgroup_size));
    }
    Ok(())
}
