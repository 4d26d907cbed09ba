<?php
// An upstream of wxgate that verifies the signed identity with PHP's OpenSSL. With Composer, firebase/php-jwt does the same.

function decode(string $part): string
{
    return (string) base64_decode(strtr($part, '-_', '+/'), true);
}

// The key set, fetched again at most once in 10 s when a kid is unknown.
function find_key(string $kid): ?array
{
    $file = sys_get_temp_dir() . '/jwks-' . hash('sha256', getenv('JWKS_URL')) . '.json';
    $search = fn () => current(array_filter(
        json_decode((string) @file_get_contents($file), true)['keys'] ?? [], fn ($key) => $key['kid'] === $kid));
    if (!$search() && time() - (int) @filemtime($file) > 10) {
        file_put_contents($file, file_get_contents(getenv('JWKS_URL')), LOCK_EX);
        clearstatcache();
    }
    return $search() ?: null;
}

function openid(string $assertion): ?string
{
    $parts = explode('.', $assertion);
    if (count($parts) !== 3) {
        return null;
    }
    $header = json_decode(decode($parts[0]), true);
    $key = ($header['alg'] ?? '') === 'ES256' ? find_key((string) ($header['kid'] ?? '')) : null;
    $signature = decode($parts[2]);
    if ($key === null || strlen($signature) !== 64) {
        return null;
    }
    // P-256's public key and ECDSA's signature as OpenSSL takes them: DER.
    $public = hex2bin('3059301306072a8648ce3d020106082a8648ce3d030107034200') . "\x04" . decode($key['x']) . decode($key['y']);
    $pem = "-----BEGIN PUBLIC KEY-----\n" . chunk_split(base64_encode($public), 64) . "-----END PUBLIC KEY-----\n";
    $integer = function (string $bytes): string {
        $bytes = ltrim($bytes, "\0");
        if ($bytes === '' || ord($bytes[0]) > 127) {
            $bytes = "\0" . $bytes;
        }
        return "\x02" . chr(strlen($bytes)) . $bytes;
    };
    $both = $integer(substr($signature, 0, 32)) . $integer(substr($signature, 32));
    if (openssl_verify("$parts[0].$parts[1]", "\x30" . chr(strlen($both)) . $both, $pem, OPENSSL_ALGO_SHA256) !== 1) {
        return null;
    }
    $claims = json_decode(decode($parts[1]), true);
    $good = $claims['iss'] === 'wxgate' && in_array(getenv('AUDIENCE'), $claims['aud'], true) && $claims['exp'] > time() - 5;
    return $good ? $claims['sub'] : null;
}

header('Content-Type: application/json');
$openid = openid($_SERVER['HTTP_X_WXGATE_ASSERTION'] ?? '');
if ($openid === null) {
    http_response_code(401);
    exit(json_encode(['error' => 'no_assertion']));
}
echo json_encode(['openid' => $openid]);
