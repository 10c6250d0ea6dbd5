// Files that the bundler turns into strings.
declare module '*.wgsl' { const text: string; export default text; }
declare module '*.html' { const text: string; export default text; }
declare module '*.css' { const text: string; export default text; }
declare module '*.txt' { const text: string; export default text; }
