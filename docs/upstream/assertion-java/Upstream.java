// An upstream of wxgate that verifies the signed identity with the JDK and Jackson. Nimbus JOSE + JWT does the same in fewer lines.
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.net.httpserver.HttpServer;
import java.math.BigInteger;
import java.net.InetSocketAddress;
import java.net.URI;
import java.security.AlgorithmParameters;
import java.security.KeyFactory;
import java.security.PublicKey;
import java.security.Signature;
import java.security.spec.ECGenParameterSpec;
import java.security.spec.ECParameterSpec;
import java.security.spec.ECPoint;
import java.security.spec.ECPublicKeySpec;
import java.time.Instant;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;

public class Upstream {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static Map<String, PublicKey> keys = new HashMap<>();
  private static Instant fetched = Instant.EPOCH;

  public static void main(String[] args) throws Exception {
    int port = Integer.parseInt(System.getenv().getOrDefault("PORT", "3000"));
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
    server.createContext("/", exchange -> {
      int status = 200;
      byte[] body;
      try {
        String openid = openid(exchange.getRequestHeaders().getFirst("X-Wxgate-Assertion"));
        body = JSON.writeValueAsBytes(Map.of("openid", openid));
      } catch (Exception e) {
        status = 401;
        body = JSON.writeValueAsBytes(Map.of("error", "no_assertion"));
      }
      exchange.getResponseHeaders().set("Content-Type", "application/json");
      exchange.sendResponseHeaders(status, body.length);
      exchange.getResponseBody().write(body);
      exchange.close();
    });
    server.start();
  }

  private static String openid(String assertion) throws Exception {
    String[] parts = assertion.split("\\.", -1);
    JsonNode header = JSON.readTree(decode(parts[0]));
    require(parts.length == 3 && header.path("alg").asText().equals("ES256"));
    Signature signature = Signature.getInstance("SHA256withECDSAinP1363Format");
    signature.initVerify(key(header.path("kid").asText()));
    signature.update((parts[0] + "." + parts[1]).getBytes());
    require(signature.verify(decode(parts[2])));
    JsonNode claims = JSON.readTree(decode(parts[1]));
    require(claims.path("iss").asText().equals("wxgate"));
    require(claims.path("exp").asLong() > Instant.now().getEpochSecond() - 5);
    for (JsonNode audience : claims.path("aud")) {
      if (audience.asText().equals(System.getenv("AUDIENCE"))) return claims.path("sub").asText();
    }
    throw new IllegalArgumentException("another audience");
  }

  // The key of a kid; an unknown one fetches the key set, at most once in 10 s.
  private static synchronized PublicKey key(String kid) throws Exception {
    if (!keys.containsKey(kid) && fetched.isBefore(Instant.now().minusSeconds(10))) {
      fetched = Instant.now();
      AlgorithmParameters curve = AlgorithmParameters.getInstance("EC");
      curve.init(new ECGenParameterSpec("secp256r1"));
      Map<String, PublicKey> found = new HashMap<>();
      for (JsonNode jwk : JSON.readTree(URI.create(System.getenv("JWKS_URL")).toURL()).path("keys")) {
        ECPoint point = new ECPoint(new BigInteger(1, decode(jwk.path("x").asText())), new BigInteger(1, decode(jwk.path("y").asText())));
        ECPublicKeySpec spec = new ECPublicKeySpec(point, curve.getParameterSpec(ECParameterSpec.class));
        found.put(jwk.path("kid").asText(), KeyFactory.getInstance("EC").generatePublic(spec));
      }
      keys = found;
    }
    PublicKey key = keys.get(kid);
    require(key != null);
    return key;
  }

  private static byte[] decode(String part) {
    return Base64.getUrlDecoder().decode(part);
  }

  private static void require(boolean good) {
    if (!good) throw new IllegalArgumentException("not a good assertion");
  }
}
