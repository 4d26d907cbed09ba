<?php
// An upstream of wxgate in PHP. The start command listens on 127.0.0.1, so only the gateway reaches it.
header('Content-Type: application/json');
$openid = $_SERVER['HTTP_X_OPENID'] ?? ''; // CGI's spelling of X-OpenID
if ($openid === '') {
    http_response_code(401);
    exit(json_encode(['error' => 'no_openid']));
}
echo json_encode(['openid' => $openid]);
