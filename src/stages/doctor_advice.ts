import { existsSync, readdirSync, readFileSync } from 'node:fs';

/** What can be seen of a Linux machine's Vulkan without loading it. */
export interface VulkanFindings {
  /** Path of libvulkan.so.1. */
  loader?: string;
  /** Names of the driver manifests. */
  drivers: string[];
  /** The kernel's part of NVIDIA's driver is there. */
  nvidia: boolean;
  /** ID and VERSION_ID of /etc/os-release. */
  system: string;
  version: string;
}

const LIBRARIES = ['/usr/lib', '/lib', '/usr/local/lib'].flatMap((folder) =>
  ['/x86_64-linux-gnu', '/aarch64-linux-gnu', '64', ''].map((kind) => folder + kind),
);
const MANIFESTS = ['/etc/vulkan/icd.d', '/usr/share/vulkan/icd.d', '/usr/local/share/vulkan/icd.d'];

export function findVulkan(root = ''): VulkanFindings {
  const read = (path: string): string => {
    try {
      return readFileSync(root + path, 'utf8');
    } catch {
      return '';
    }
  };
  const list = (path: string): string[] => {
    try {
      return readdirSync(root + path);
    } catch {
      return [];
    }
  };
  const release = read('/etc/os-release');
  const field = (name: string): string => new RegExp(`^${name}="?([^"\n]*)"?$`, 'm').exec(release)?.[1] ?? '';
  return {
    loader: LIBRARIES.map((folder) => `${folder}/libvulkan.so.1`).find((path) => existsSync(root + path)),
    drivers: MANIFESTS.flatMap(list)
      .filter((name) => name.endsWith('.json'))
      .sort(),
    nvidia: existsSync(`${root}/dev/nvidiactl`) || existsSync(`${root}/proc/driver/nvidia/version`),
    system: field('ID'),
    version: field('VERSION_ID'),
  };
}

/** What to install or set on a machine where Dawn found no adapter (`none`) or only one in software. */
export function advice(platform: string, found: VulkanFindings, adapters: 'none' | 'software'): string[] {
  if (platform !== 'linux') {
    return ['the system brings what is needed (Metal, D3D12): update it and its graphics driver'];
  }
  const lines: string[] = [];
  if (found.nvidia && !found.drivers.some((name) => name.includes('nvidia'))) {
    lines.push(
      "an NVIDIA GPU is here, but not the Vulkan part of its driver: install the distribution's libnvidia-gl (or " +
        'nvidia-vulkan-icd) package of the same version; in a container set NVIDIA_DRIVER_CAPABILITIES=all',
    );
  } else if (adapters === 'software') {
    lines.push("for a GPU: NVIDIA's own driver with its Vulkan part, or mesa-vulkan-drivers for AMD and Intel");
  }
  if (adapters === 'none') lines.push(...software(found));
  return lines;
}

function software({ system, version }: VulkanFindings): string[] {
  if (system === 'debian' && version === '12') {
    return [
      "without a GPU, Mesa's software driver: Debian 12's own is too old, so add its suite bookworm-backports to the " +
        'apt sources (your mirror, that suite), then',
      '  apt-get update && apt-get install -y -t bookworm-backports --no-install-recommends mesa-vulkan-drivers libvulkan1',
    ];
  }
  if (system === 'debian' || system === 'ubuntu') {
    return [
      "without a GPU, Mesa's software driver:",
      '  apt-get update && apt-get install -y --no-install-recommends libvulkan1 mesa-vulkan-drivers',
    ];
  }
  return ["without a GPU, Mesa's software driver (lavapipe), 23.3 or newer, and the Vulkan loader libvulkan1"];
}
