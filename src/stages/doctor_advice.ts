import { existsSync, readdirSync, readFileSync } from 'node:fs';

/** What can be seen of a Linux machine's Vulkan without loading it. */
export interface VulkanFindings {
  /** Path of libvulkan.so.1. */
  loader?: string;
  /** The driver manifests that the loader reads: names of those in its own folders, paths of those that variables name. */
  drivers: string[];
  /** The environment variable that names the only drivers there are to the loader, if one is set. */
  only?: string;
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

/** The loader's variables: of the two that name the only drivers the first that is set counts, and leaves no room for more of them. */
const ONLY = ['VK_DRIVER_FILES', 'VK_ICD_FILENAMES'];
const MORE = 'VK_ADD_DRIVER_FILES';
const isManifest = (name: string): boolean => name.endsWith('.json');

/** Looks at the machine whose root folder this is, under these environment variables. */
export function findVulkan(root = '', env: NodeJS.ProcessEnv = process.env): VulkanFindings {
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
  /** Manifests and folders of them, as the variables list them. */
  const listed = (paths: string): string[] =>
    paths
      .split(':')
      .flatMap((path) => (isManifest(path) ? [path] : list(path).filter(isManifest).map((name) => `${path}/${name}`)))
      .filter((path) => existsSync(root + path));
  const only = ONLY.find((name) => env[name] !== undefined);
  const release = read('/etc/os-release');
  const field = (name: string): string => new RegExp(`^${name}="?([^"\n]*)"?$`, 'm').exec(release)?.[1] ?? '';
  return {
    loader: LIBRARIES.map((folder) => `${folder}/libvulkan.so.1`).find((path) => existsSync(root + path)),
    drivers: only ? listed(env[only]!) : [...listed(env[MORE] ?? ''), ...MANIFESTS.flatMap(list).filter(isManifest).sort()],
    only,
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
  const others = found.nvidia && !found.drivers.some((name) => name.includes('nvidia'));
  if (found.only && (others || adapters === 'none')) {
    lines.push(`the Vulkan loader looks at no other drivers than ${found.only} names: unset it to have all that are installed`);
  } else if (others) {
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
    const newer = system === 'debian' && version === '13' ? ' (that of trixie-backports compiles kernels in a quarter of the time)' : '';
    return [
      `without a GPU, Mesa's software driver${newer}:`,
      '  apt-get update && apt-get install -y --no-install-recommends libvulkan1 mesa-vulkan-drivers',
    ];
  }
  return ["without a GPU, Mesa's software driver (lavapipe), 23.3 or newer, and the Vulkan loader libvulkan1"];
}
