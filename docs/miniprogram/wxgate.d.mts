export * from './wxgate.js';
